//! What commands that speak to a coordinator begin with: which one, who we are to it, and whether that may be told.

use crate::args::{GlobalArgs, RunArgs};
use crate::config::{Environment, Files, Origin, Settings};
use crate::error::CliError;
use crate::listing::Screen;
use crate::remote::{CertificateFiles, Connection, Credentials, Endpoint, TokenSource};

use super::session;

/// A coordinator that the user named, and what else a command needs.
#[derive(Debug)]
pub struct Asking {
    /// The way to it.
    pub connection: Connection,
    /// Everything that is set.
    pub settings: Settings,
    /// The variables.
    pub environment: Environment,
}

impl Asking {
    /// For a command that is about no flake: the fleet.toml of the current directory counts. `what` says what needs
    /// the coordinator, as the beginning of a sentence.
    pub fn begin(global: &GlobalArgs, run: &RunArgs, what: &str) -> Result<Self, CliError> {
        let environment = Environment::of_process();
        let files = Files::load(&environment, &session::current_directory()?)?;
        let settings = Settings::resolve(global, run, &environment, &files)?;
        match connection(&settings)? {
            Some(connection) => Ok(Self { connection, settings, environment }),
            None => Err(CliError::needs_coordinator(what)),
        }
    }

    /// Where its answer goes.
    pub fn screen(&self) -> Screen {
        Screen::of_stdout(self.settings.color.value, &self.environment)
    }
}

/// The way to the coordinator, if one is set.
pub fn connection(settings: &Settings) -> Result<Option<Connection>, CliError> {
    let Some(endpoint) = &settings.remote.coordinator.value else { return Ok(None) };
    let credentials = credentials(settings, endpoint)?;
    Ok(Some(Connection::open(endpoint, &credentials)))
}

/// Options about building in this process say nothing to a coordinator elsewhere, and the other way round.
pub fn refuse_contradictions(args: &RunArgs, settings: &Settings) -> Result<(), CliError> {
    let remote = &settings.remote;
    let only_here = [&settings.store.origin, &settings.worker_slots.origin, &settings.eval_slots.origin];
    let of_coordinators = [
        args.detach.then_some("--detach"),
        args.follow.detach_on_interrupt.then_some("--detach-on-interrupt"),
        flag_of(&remote.reconnect_for.origin),
        flag_of(&remote.ca.origin),
        flag_of(&remote.client_cert.origin),
        flag_of(&remote.client_key.origin),
        flag_of(&remote.token_file.origin),
    ];
    if let Some(endpoint) = &remote.coordinator.value {
        let Some(option) = only_here.into_iter().find_map(flag_of) else { return Ok(()) };
        return Err(CliError::new(format!(
            "{option} is about building in this process, but {endpoint} (of {}) is to build",
            remote.coordinator.origin
        ))
        .next(format!("Leave {option} out, or add --coordinator none")));
    }
    match of_coordinators.into_iter().flatten().next() {
        Some(option) => Err(CliError::needs_coordinator(option)),
        None => Ok(()),
    }
}

fn flag_of(origin: &Origin) -> Option<&'static str> {
    match origin {
        Origin::Flag(name) => Some(name),
        _ => None,
    }
}

fn credentials(settings: &Settings, endpoint: &Endpoint) -> Result<Credentials, CliError> {
    let remote = &settings.remote;
    let certificate = match (&remote.client_cert.value, &remote.client_key.value) {
        (Some(certificate), key) => {
            Some(CertificateFiles { certificate: certificate.clone(), key: key.clone() })
        }
        (None, None) => None,
        (None, Some(key)) => {
            return Err(CliError::new(format!(
                "there is no certificate for the private key {}",
                key.display()
            ))
            .next("Name it with --client-cert, FLEET_CLIENT_CERT or client_cert in the user's config.toml"));
        }
    };
    let token = token(settings);
    let vouched = remote.ca.value.is_some() || certificate.as_ref().is_some_and(|files| files.key.is_none());
    // Else any flake could have the user's token sent to whomever it likes.
    if token.is_some() && remote.is_named_by_flake() && !vouched {
        return Err(CliError::new(format!(
            "only {} says that your token goes to {endpoint}",
            remote.coordinator.origin
        ))
        .next(
            "Say it yourself: name the coordinator in FLEET_COORDINATOR or ~/.config/fleetctl/config.toml, or its \
             authority with --ca",
        ));
    }
    Ok(Credentials { ca: remote.ca.value.clone(), certificate, token })
}

/// The nearest to this command wins: an option, then the environment, then the user's file.
fn token(settings: &Settings) -> Option<TokenSource> {
    let remote = &settings.remote;
    let file = remote.token_file.value.clone().map(TokenSource::PrivateFile);
    if matches!(remote.token_file.origin, Origin::Flag(_)) {
        return file;
    }
    let given = remote.token.value.clone().map(TokenSource::Given);
    let from_variable = file.clone().filter(|_| matches!(remote.token_file.origin, Origin::Variable(_)));
    let of_ci = remote.oidc_token_file.value.clone().map(TokenSource::CiFile);
    given.or(from_variable).or(of_ci).or(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ProjectFile, UserFile};

    struct Said<'a> {
        variables: &'a [(&'a str, &'a str)],
        project: Option<&'a str>,
        user: UserFile,
        global: GlobalArgs,
        run: RunArgs,
    }

    impl Default for Said<'_> {
        fn default() -> Self {
            let (global, run) = (GlobalArgs::default(), RunArgs::default());
            Self { variables: &[], project: None, user: UserFile::default(), global, run }
        }
    }

    impl Said<'_> {
        fn settings(&self) -> Result<Settings, CliError> {
            let mut variables: std::collections::BTreeMap<_, _> = [("HOME".into(), "/home/u".into())].into();
            variables.extend(self.variables.iter().map(|(name, value)| (name.into(), value.into())));
            let project = self.project.map(|url| {
                let file = ProjectFile { coordinator: Some(url.to_owned()), ..ProjectFile::default() };
                ("/f/fleet.toml".into(), file)
            });
            let files = Files { project, user: Some(("/c/config.toml".into(), self.user.clone())) };
            Ok(Settings::resolve(&self.global, &self.run, &Environment(variables), &files)?)
        }

        fn refused(&self) -> String {
            let refused = self.settings().and_then(|settings| {
                refuse_contradictions(&self.run, &settings)?;
                let endpoint = settings.remote.coordinator.value.clone();
                endpoint.map(|endpoint| credentials(&settings, &endpoint)).transpose().map(drop)
            });
            refused.expect_err("refused").paragraph()
        }
    }

    const URL: &str = "https://build.example.org";

    #[test]
    fn an_address_without_a_scheme_is_refused_with_its_origin() {
        let variables = &[("FLEET_COORDINATOR", "build.example.org:7143")];
        insta::assert_snapshot!(Said { variables, ..Said::default() }.refused(), @"error: the coordinator's address of FLEET_COORDINATOR is not one: `build.example.org:7143` has no scheme; write https://build.example.org:7143. Write https://HOST, https://HOST:PORT or unix:///PATH.");
        insta::assert_snapshot!(Said { project: Some("unix:///run/x"), ..Said::default() }.refused(), @"error: /f/fleet.toml: a flake cannot name a socket of this machine as its coordinator. Write https://HOST there; a socket goes into ~/.config/fleetctl/config.toml or FLEET_COORDINATOR.");
        let global = GlobalArgs { coordinator: Some("https://u:p@h".to_owned()), ..GlobalArgs::default() };
        insta::assert_snapshot!(Said { global, ..Said::default() }.refused(), @"error: the coordinator's address of --coordinator is not one: an address must not hold a user name or a password; name a token file instead. Write https://HOST, https://HOST:PORT or unix:///PATH.");
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused() {
        let global = GlobalArgs { store: Some("daemon".to_owned()), ..GlobalArgs::default() };
        insta::assert_snapshot!(Said { project: Some(URL), global: global.clone(), ..Said::default() }.refused(), @"error: --store is about building in this process, but https://build.example.org:7143 (of /f/fleet.toml) is to build. Leave --store out, or add --coordinator none.");
        let none = GlobalArgs { coordinator: Some("none".to_owned()), ..global };
        let said = Said { project: Some(URL), global: none, ..Said::default() };
        assert!(refuse_contradictions(&said.run, &said.settings().expect("settings")).is_ok());
        let run = RunArgs { detach: true, ..RunArgs::default() };
        insta::assert_snapshot!(Said { run, ..Said::default() }.refused(), @r#"error: --detach needs a coordinator, and none is set. Name it with --coordinator https://HOST, in FLEET_COORDINATOR, or as coordinator = "https://HOST" in fleet.toml; on its own machine unix:///var/lib/fleet-coordinator/coordinator.sock will do."#);
        let variables = &[("FLEET_CLIENT_KEY", "/k"), ("FLEET_COORDINATOR", URL)];
        insta::assert_snapshot!(Said { variables, ..Said::default() }.refused(), @"error: there is no certificate for the private key /k. Name it with --client-cert, FLEET_CLIENT_CERT or client_cert in the user's config.toml.");
    }

    #[test]
    fn a_flake_cannot_have_the_users_token_sent_where_it_likes() {
        let user = UserFile { token_file: Some("/t".into()), ..UserFile::default() };
        insta::assert_snapshot!(Said { project: Some(URL), user: user.clone(), ..Said::default() }.refused(), @"error: only /f/fleet.toml says that your token goes to https://build.example.org:7143. Say it yourself: name the coordinator in FLEET_COORDINATOR or ~/.config/fleetctl/config.toml, or its authority with --ca.");
        let trusted = [
            Said {
                project: Some(URL),
                user: user.clone(),
                variables: &[("FLEET_CA", "/ca")],
                ..Said::default()
            },
            Said { user: user.clone(), variables: &[("FLEET_COORDINATOR", URL)], ..Said::default() },
            Said { user: UserFile { coordinator: Some(URL.to_owned()), ..user }, ..Said::default() },
        ];
        for said in trusted {
            let settings = said.settings().expect("settings");
            assert!(connection_credentials(&settings).token.is_some());
        }
    }

    fn connection_credentials(settings: &Settings) -> Credentials {
        let endpoint = settings.remote.coordinator.value.clone().expect("a coordinator");
        credentials(settings, &endpoint).expect("trusted")
    }

    #[test]
    fn the_nearest_token_wins() {
        let user = UserFile {
            token_file: Some("/user".into()),
            coordinator: Some(URL.to_owned()),
            ..UserFile::default()
        };
        let token = |variables, option: Option<&str>| {
            let global = GlobalArgs { token_file: option.map(Into::into), ..GlobalArgs::default() };
            let said = Said { variables, user: user.clone(), global, ..Said::default() };
            format!(
                "{:?}",
                connection_credentials(&said.settings().expect("settings")).token.expect("a token")
            )
        };
        let all =
            &[("FLEET_TOKEN", "secret"), ("FLEET_TOKEN_FILE", "/variable"), ("FLEET_OIDC_TOKEN_FILE", "/ci")];
        assert_eq!(token(all, Some("/option")), r#"PrivateFile("/option")"#);
        assert_eq!(token(all, None), "Given((secret))");
        assert_eq!(token(&all[1..], None), r#"PrivateFile("/variable")"#);
        assert_eq!(token(&all[2..], None), r#"CiFile("/ci")"#);
        assert_eq!(token(&[], None), r#"PrivateFile("/user")"#);
    }
}
