//! The formats a report comes in.

use std::str::FromStr;

use crate::report::model::Report;
use crate::report::{json, markdown, nvd};

/// How a report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people, in terminals and pull requests.
    #[default]
    Markdown,
    /// A diff per changed host in the manner of nvd.
    Nvd,
    /// For programs; docs/report.md describes the schema.
    Json,
}

/// No format of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown report format {0:?}: expected markdown, nvd or json")]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "markdown" | "md" => Ok(Self::Markdown),
            "nvd" => Ok(Self::Nvd),
            "json" => Ok(Self::Json),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

/// Writes a report. It ends with a line break unless it is empty.
pub fn render(report: &Report, format: Format) -> String {
    match format {
        Format::Markdown => markdown::markdown(report),
        Format::Nvd => nvd::nvd(report),
        Format::Json => json::json(report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_go_by_their_names_and_md() {
        assert_eq!("md".parse(), Ok(Format::Markdown));
        assert_eq!("markdown".parse(), Ok(Format::Markdown));
        assert_eq!("nvd".parse(), Ok(Format::Nvd));
        assert_eq!("json".parse(), Ok(Format::Json));
        let error = "JSON\n".parse::<Format>().unwrap_err();
        assert_eq!(error.to_string(), "unknown report format \"JSON\\n\": expected markdown, nvd or json");
    }
}
