//! Which application to serve: `module:attribute`, as Python's ASGI servers write it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What the command line asks to be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A Python application.
    Application(Application),
    /// The service built into pounce.
    Demo,
}

/// A Python object by name. `Display` writes it as it is typed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// Dotted module name: `mysite.asgi`.
    pub module: String,
    /// Dotted attribute inside the module: `app`, `factories.main`.
    pub attribute: String,
    /// The attribute is to be called, without arguments, to get the application.
    pub factory: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Application(application) => application.fmt(f),
            Target::Demo => f.write_str("demo"),
        }
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = if self.factory { "()" } else { "" };
        write!(f, "{}:{}{call}", self.module, self.attribute)
    }
}

/// Why a name is no application: the problem, and a name that would work.
#[derive(Debug, PartialEq, Eq)]
pub struct Misnamed {
    pub problem: String,
    pub suggestion: Option<String>,
}

impl Target {
    /// Reads `demo`, or an application as [`Application::parse`] does.
    pub(crate) fn parse(text: &str) -> Result<Target, Misnamed> {
        if text == "demo" { Ok(Target::Demo) } else { Application::parse(text).map(Target::Application) }
    }
}

impl Application {
    /// Reads `module:attribute`, `module:attribute.nested` or `module:factory()`.
    pub(crate) fn parse(text: &str) -> Result<Application, Misnamed> {
        let wrong =
            |problem: &str, suggestion: Option<String>| Misnamed { problem: problem.to_owned(), suggestion };
        let Some((module, attribute)) = text.split_once(':') else {
            if text.is_empty() {
                return Err(wrong("it must be module:attribute, such as main:app", None));
            }
            let module = module_of_path(text).unwrap_or_else(|| text.to_owned());
            let suggestion = is_dotted_name(&module).then(|| format!("{module}:app"));
            return Err(wrong("it must name the module and the attribute, module:attribute", suggestion));
        };
        if let Some(module) = module_of_path(module) {
            let suggestion = is_dotted_name(&module).then(|| format!("{module}:{attribute}"));
            return Err(wrong("a file name stands where the module's name belongs", suggestion));
        }
        if !is_dotted_name(module) {
            return Err(wrong(
                "the part before the colon must be a module's name, such as main or mysite.asgi",
                None,
            ));
        }
        let (attribute, factory) = match attribute.split_once('(') {
            Some((attribute, ")")) => (attribute, true),
            Some((attribute, _)) => {
                let suggestion = is_dotted_name(attribute).then(|| format!("{module}:{attribute}()"));
                return Err(wrong("a factory is called without arguments", suggestion));
            }
            None => (attribute, false),
        };
        if attribute.is_empty() {
            return Err(wrong("nothing stands after the colon", Some(format!("{module}:app"))));
        }
        if !is_dotted_name(attribute) {
            return Err(wrong(
                "the part after the colon must be an attribute's name, such as app or web.app",
                None,
            ));
        }
        Ok(Application { module: module.to_owned(), attribute: attribute.to_owned(), factory })
    }
}

/// The dotted module name that a path such as `./src/main.py` probably means; `None` for what is no path.
fn module_of_path(text: &str) -> Option<String> {
    let stem = text.strip_suffix(".py");
    if stem.is_none() && !text.contains('/') {
        return None;
    }
    let path = stem.unwrap_or(text).trim_start_matches("./").trim_end_matches('/');
    Some(path.trim_end_matches("/__init__").replace('/', "."))
}

/// Whether `text` is Python identifiers joined by dots. Python has the last word (it normalises Unicode); this
/// only catches what can never be a name.
fn is_dotted_name(text: &str) -> bool {
    text.split('.').all(|part| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_is_read_and_written_back() {
        for text in
            ["main:app", "mysite.asgi:application", "main:web.app", "main:create_app()", "pkg._x:Äpp2"]
        {
            assert_eq!(Application::parse(text).map(|a| a.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(Target::parse("demo"), Ok(Target::Demo));
    }

    #[test]
    fn a_name_that_cannot_work_gets_one_that_would() {
        for (text, suggestion) in [
            ("main", Some("main:app")),
            ("main.py", Some("main:app")),
            ("./main.py", Some("main:app")),
            ("src/main.py", Some("src.main:app")),
            ("main.py:api", Some("main:api")),
            ("src/main:api", Some("src.main:api")),
            ("pkg/__init__.py:app", Some("pkg:app")),
            ("main:", Some("main:app")),
            ("main:make(1)", Some("main:make()")),
            ("", None),
            (":app", None),
            ("main:1st", None),
            ("main:a..b", None),
            ("my-app:app", None),
            ("main:app:x", None),
        ] {
            let error = Application::parse(text).expect_err(text);
            assert_eq!(error.suggestion.as_deref(), suggestion, "{text}");
        }
    }
}
