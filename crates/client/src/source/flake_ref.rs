//! What the user typed as FLAKE, taken apart. Text only: no file is looked at here.

use std::path::PathBuf;

/// A flake on this machine, and what of it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlakeRef {
    /// How the tree is to be read.
    pub scheme: Scheme,
    /// Where it is, absolute or relative to the current directory.
    pub path: PathBuf,
    /// `?dir=`: where flake.nix is below the tree.
    pub dir: Option<String>,
    /// `?rev=` or `?ref=`: a commit instead of the work tree.
    pub commit: Option<String>,
    /// `?ref=`: where that commit was taken from.
    pub branch: Option<String>,
    /// `?shallow=1`: the number of revisions is not wanted.
    pub shallow: bool,
    /// After the `#`.
    pub fragment: Option<Fragment>,
}

/// How the tree of a flake is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A plain path: git when there is a repository around it, the directory otherwise.
    Guess,
    /// `git+file:`: the path is a repository.
    Git,
    /// `path:`: every file of the directory, tracked or not.
    Directory,
}

/// One configuration, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Set when the fragment begins with `nixosConfigurations` or its like.
    pub attribute_set: Option<String>,
    /// The configuration's name.
    pub host: String,
}

/// Why FLAKE is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlakeRefError {
    /// Another place than this machine.
    #[error("`{0}` is not a flake on this machine")]
    NotLocal(String),
    /// A query key we would have to ignore.
    #[error("`{key}` in `{flake}` is not supported")]
    Parameter {
        /// The key.
        key: String,
        /// All of it.
        flake: String,
    },
    /// Broken percent encoding, a NUL byte.
    #[error("`{0}` is not a flake reference")]
    Malformed(String),
}

impl FlakeRef {
    /// Reads `PATH`, `PATH?dir=SUB`, `PATH#HOST`, `path:…` and `git+file:…`.
    pub fn parse(text: &str) -> Result<Self, FlakeRefError> {
        if text.contains('\0') {
            return Err(FlakeRefError::Malformed(text.escape_default().to_string()));
        }
        let (rest, fragment) = split(text, '#');
        let (location, query) = split(rest, '?');
        let (scheme, path) = scheme_and_path(text, location)?;
        let mut flake = Self {
            scheme,
            path: if path.is_empty() { ".".into() } else { path.into() },
            dir: None,
            commit: None,
            branch: None,
            shallow: false,
            fragment: None,
        };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = split(pair, '=');
            let value = decode(text, value.unwrap_or_default())?;
            flake.set(text, key, value)?;
        }
        flake.fragment = match fragment {
            None | Some("") => None,
            Some(fragment) => Some(Fragment::parse(&decode(text, fragment)?)),
        };
        Ok(flake)
    }

    fn set(&mut self, text: &str, key: &str, value: String) -> Result<(), FlakeRefError> {
        let git = self.scheme != Scheme::Directory;
        match key {
            "dir" => self.dir = Some(subdir(text, &value)?).filter(|dir| !dir.is_empty()),
            // A revision names the commit more exactly than the branch it was taken from.
            "rev" if git => self.commit = Some(value),
            "ref" if git => {
                self.commit = self.commit.take().or(Some(value.clone()));
                self.branch = Some(value);
            }
            "shallow" if git => self.shallow = value == "1",
            "submodules" | "lfs" | "exportIgnore" if git && value != "1" => {}
            _ => {
                return Err(FlakeRefError::Parameter { key: key.to_owned(), flake: text.to_owned() });
            }
        }
        Ok(())
    }
}

impl Fragment {
    fn parse(text: &str) -> Self {
        for set in ["nixosConfigurations", "darwinConfigurations", "homeConfigurations"] {
            if let Some(rest) = text.strip_prefix(set).and_then(|rest| rest.strip_prefix('.')) {
                return Self { attribute_set: Some(set.to_owned()), host: first_attribute(rest) };
            }
        }
        Self { attribute_set: None, host: text.to_owned() }
    }
}

/// `"a.b".config` is `a.b`; `web.config` is `web`.
fn first_attribute(path: &str) -> String {
    if let Some(end) = path.strip_prefix('"').and_then(|quoted| quoted.find('"')) {
        return path[1..=end].to_owned();
    }
    path.split('.').next().unwrap_or(path).to_owned()
}

fn scheme_and_path(text: &str, location: &str) -> Result<(Scheme, String), FlakeRefError> {
    let (scheme, rest) = if let Some(rest) = location.strip_prefix("path:") {
        (Scheme::Directory, rest)
    } else if let Some(rest) = location.strip_prefix("git+file:") {
        (Scheme::Git, rest)
    } else if is_elsewhere(location) {
        return Err(FlakeRefError::NotLocal(text.to_owned()));
    } else {
        // Nix takes a plain path as it is: `%` in a directory name needs no escape.
        return Ok((Scheme::Guess, location.to_owned()));
    };
    // Only an empty authority is on this machine.
    let path = match rest.strip_prefix("//") {
        Some(after) if after.starts_with('/') => after,
        Some(_) => return Err(FlakeRefError::NotLocal(text.to_owned())),
        None => rest,
    };
    Ok((scheme, decode(text, path)?))
}

/// `github:o/r`, `https://…`, `git+ssh://…`; but neither `./a:b` nor `/a:b`.
fn is_elsewhere(location: &str) -> bool {
    location.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

fn subdir(text: &str, value: &str) -> Result<String, FlakeRefError> {
    let parts: Vec<&str> = value.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(FlakeRefError::Malformed(text.to_owned()));
    }
    Ok(parts.join("/"))
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn decode(text: &str, encoded: &str) -> Result<String, FlakeRefError> {
    let malformed = || FlakeRefError::Malformed(text.to_owned());
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(malformed()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| malformed())?);
    }
    if bytes.contains(&0) {
        return Err(malformed());
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> FlakeRef {
        FlakeRef::parse(text).expect(text)
    }

    fn host(text: &str) -> Option<String> {
        parsed(text).fragment.map(|fragment| fragment.host)
    }

    #[test]
    fn plain_paths_are_taken_literally() {
        assert_eq!(parsed("").path, PathBuf::from("."));
        assert_eq!(parsed("/a%20b/.").path, PathBuf::from("/a%20b/."));
        assert_eq!(parsed("./a:b").scheme, Scheme::Guess);
    }

    #[test]
    fn urls_are_decoded() {
        let flake = parsed("git+file:///a%20b?dir=x/y/&rev=abc&ref=main");
        assert_eq!(flake.scheme, Scheme::Git);
        assert_eq!(flake.path, PathBuf::from("/a b"));
        assert_eq!(flake.dir.as_deref(), Some("x/y"));
        assert_eq!(flake.commit.as_deref(), Some("abc"));
        assert_eq!(parsed("path:./x").scheme, Scheme::Directory);
        assert_eq!(parsed("git+file:sub").path, PathBuf::from("sub"));
    }

    #[test]
    fn the_fragment_names_a_host() {
        assert_eq!(host(".#web"), Some("web".to_owned()));
        assert_eq!(host(".#a b;c"), Some("a b;c".to_owned()));
        assert_eq!(host(".#a%20b"), Some("a b".to_owned()));
        assert_eq!(host(".#--option"), Some("--option".to_owned()));
        assert_eq!(host(".#"), None);
        let long = parsed(".#nixosConfigurations.\"a.b\".config.system").fragment.expect("fragment");
        assert_eq!(long.host, "a.b");
        assert_eq!(long.attribute_set.as_deref(), Some("nixosConfigurations"));
        assert_eq!(host(".#darwinConfigurations.mac.system"), Some("mac".to_owned()));
    }

    #[test]
    fn flakes_elsewhere_are_refused_by_name() {
        for text in ["github:o/r", "https://x/y.tar.gz", "git+ssh://host/x", "git+file://host/x", "nixpkgs:x"]
        {
            assert_eq!(FlakeRef::parse(text), Err(FlakeRefError::NotLocal(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn parameters_we_would_have_to_ignore_are_refused() {
        for text in [".?submodules=1", ".?lfs=1", "path:.?rev=a", ".?narHash=x"] {
            assert!(matches!(FlakeRef::parse(text), Err(FlakeRefError::Parameter { .. })), "{text}");
        }
        for text in [".?dir=../x", "path:%zz", "path:%00", "a\0b", "path:%4"] {
            assert!(matches!(FlakeRef::parse(text), Err(FlakeRefError::Malformed(_))), "{text}");
        }
    }
}
