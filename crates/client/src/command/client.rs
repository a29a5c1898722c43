//! `fleetctl client`: tokens of people and programs.

use std::time::Duration;

use fleet_wire::v1;
use serde::Serialize;
use tonic::Code;

use super::confirm::confirm;
use super::coordinator::Asking;
use super::worker::print_token;
use crate::args::{ClientArgs, ClientCommand, ClientTokenArgs, GlobalArgs, Role, RunArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing::{self, Cell, Table};
use crate::output;
use crate::progress::{Style, visible};

#[derive(Serialize)]
struct ClientsJson<'a> {
    clients: Vec<ClientJson<'a>>,
}

#[derive(Serialize)]
struct ClientJson<'a> {
    name: &'a str,
    role: &'static str,
    expires_unix_s: u64,
    revoked: bool,
}

/// Does what the subcommand says.
pub async fn execute(global: &GlobalArgs, args: &ClientArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "client")?;
    match &args.command {
        ClientCommand::Token(args) => token(&asking, args).await?,
        ClientCommand::Ls { json } => list(&asking, *json).await?,
        ClientCommand::Revoke { name, yes } => revoke(&asking, name, *yes).await?,
    }
    Ok(Exit::Success)
}

async fn token(asking: &Asking, args: &ClientTokenArgs) -> Result<(), CliError> {
    let request = v1::CreateClientTokenRequest {
        name: args.name.clone(),
        role: wire_role(args.role).into(),
        ttl_s: args.ttl.as_ref().map_or(0, Duration::as_secs),
    };
    let reply = asking.connection.admin().create_client_token(request).await;
    let reply = reply.map_err(|status| CliError::of_status("no token is made", &status))?.into_inner();
    print_token(&reply.token, reply.expires, args.json)
}

async fn list(asking: &Asking, json: bool) -> Result<(), CliError> {
    let reply = asking.connection.admin().list_clients(v1::ListClientsRequest {}).await;
    let reply = reply.map_err(|status| CliError::of_status("the clients are not listed", &status))?;
    let clients = reply.into_inner().clients;
    if json {
        let clients = clients.iter().map(|client| ClientJson {
            name: &client.name,
            role: role_word(client.role()),
            expires_unix_s: client.expires,
            revoked: client.revoked,
        });
        return output::print(&listing::document(ClientsJson { clients: clients.collect() }));
    }
    let screen = asking.screen();
    if clients.is_empty() {
        return Ok(());
    }
    screen.print(&table(&clients, listing::unix_ms()).lines(screen.columns))
}

fn table(clients: &[v1::ClientStatus], now_ms: u64) -> Table {
    let mut table = Table::new(&["CLIENT", "ROLE", "EXPIRES", "STATE"]);
    for client in clients {
        let state = if client.revoked { Cell::text("revoked").styled(Style::Bad) } else { Cell::text("") };
        table.row(vec![
            Cell::text(&client.name),
            Cell::text(role_word(client.role())),
            Cell::text(&listing::until(client.expires, now_ms)),
            state,
        ]);
    }
    table
}

async fn revoke(asking: &Asking, name: &str, yes: bool) -> Result<(), CliError> {
    confirm(&format!("Refuse client {} from now on?", visible(name)), yes)?;
    let reply =
        asking.connection.admin().revoke_client(v1::RevokeClientRequest { name: name.to_owned() }).await;
    reply.map_err(|status| match status.code() {
        Code::NotFound => CliError::new(format!("the coordinator knows no client `{name}`"))
            .next("`fleetctl client ls` lists those it knows"),
        _ => CliError::of_status("the client is not revoked", &status),
    })?;
    Ok(())
}

fn wire_role(role: Role) -> v1::Role {
    match role {
        Role::Read => v1::Role::Read,
        Role::Submit => v1::Role::Submit,
        Role::Admin => v1::Role::Admin,
    }
}

fn role_word(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Read => "read",
        v1::Role::Submit => "submit",
        v1::Role::Admin => "admin",
        v1::Role::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_listed_with_what_they_may_do() {
        let client = |name: &str, role: v1::Role, expires, revoked| v1::ClientStatus {
            name: name.to_owned(),
            role: role.into(),
            expires,
            revoked,
        };
        let clients =
            [client("ci", v1::Role::Submit, 7_200, false), client("old", v1::Role::Admin, 10, true)];
        let lines = table(&clients, 60_000).lines(None);
        let text: String = lines.iter().map(|line| line.text().trim_end().to_owned() + "\n").collect();
        insta::assert_snapshot!(text, @r"
    CLIENT  ROLE    EXPIRES   STATE
    ci      submit  in 1h59m
    old     admin   expired   revoked
    ");
    }
}
