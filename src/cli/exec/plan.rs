//! What a command is to be given, from the options and the mapping files. Pure, but for reading those.
//!
//! What stands after `NAME=` is never shown unless it is a key: a mapping file may turn out to hold the values themselves.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::secret::KeyPath;
use crate::shown;

/// How the command gets a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The variable is the value.
    Variable,
    /// The variable is the path of a file that holds the value.
    File,
}

/// A variable of the command's environment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) key: KeyPath,
    pub(super) way: Way,
}

/// Why what was asked for is none of that.
#[derive(Debug)]
pub(super) enum Wrong {
    /// The place is an option, or a line of a file.
    NoEqualsSign {
        place: String,
    },
    Name {
        place: String,
        name: String,
    },
    Key {
        place: String,
        name: String,
        why: String,
    },
    Twice {
        place: String,
        name: String,
        first: String,
    },
    Unreadable {
        file: PathBuf,
        error: std::io::Error,
    },
    Nothing,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEqualsSign { place } => {
                write!(f, "{place}: expected NAME=KEY, such as DATABASE_URL=/billing/database-url")
            }
            Self::Name { place, name } => {
                let name = shown::part(name);
                write!(
                    f,
                    "{place}: `{name}` is no name for a variable: legal are A-Z a-z 0-9 _, not beginning with a digit"
                )
            }
            Self::Key { place, name, why } => write!(f, "{place}: what `{name}` stands for is no key: {why}"),
            Self::Twice { place, name, first } => write!(f, "{place}: `{name}` is given twice, first by {first}"),
            Self::Unreadable { file, error } => write!(f, "{}: {error}", file.display()),
            Self::Nothing => {
                write!(f, "nothing to give: name at least one --env NAME=KEY, --file NAME=KEY or --env-file MAPPING")
            }
        }
    }
}

/// All of them, in the order of the options.
pub(super) fn bindings(variables: &[String], files: &[String], mappings: &[PathBuf]) -> Result<Vec<Binding>, Wrong> {
    let mut plan = Plan::default();
    for text in variables {
        plan.add(text, Way::Variable, "--env".to_owned())?;
    }
    for text in files {
        plan.add(text, Way::File, "--file".to_owned())?;
    }
    for path in mappings {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|error| Wrong::Unreadable { file: path.clone(), error })?;
        plan.mapping(path, &text)?;
    }
    if plan.bindings.is_empty() { Err(Wrong::Nothing) } else { Ok(plan.bindings) }
}

#[derive(Default)]
struct Plan {
    bindings: Vec<Binding>,
    /// Where each name was given first.
    places: HashMap<String, String>,
}

impl Plan {
    fn add(&mut self, text: &str, way: Way, place: String) -> Result<(), Wrong> {
        let Some((name, key)) = text.split_once('=') else { return Err(Wrong::NoEqualsSign { place }) };
        if !is_variable(name) {
            // A name is no secret, unless it is what somebody has pasted: then it is long.
            let name = name.chars().take(40).collect();
            return Err(Wrong::Name { place, name });
        }
        let name = name.to_owned();
        if let Some(first) = self.places.insert(name.clone(), place.clone()) {
            return Err(Wrong::Twice { place, name, first });
        }
        match KeyPath::parse(key) {
            Ok(key) => self.bindings.push(Binding { name, key, way }),
            Err(why) => return Err(Wrong::Key { place, name, why: why.to_string() }),
        }
        Ok(())
    }

    /// A line for each variable, `NAME=KEY`; empty ones and those that begin with `#` say nothing.
    fn mapping(&mut self, path: &Path, text: &str) -> Result<(), Wrong> {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                self.add(line, Way::Variable, format!("{}:{}", path.display(), number + 1))?;
            }
        }
        Ok(())
    }
}

/// environ(7) allows more; shells and most programs do not.
fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[&str], files: &[&str]) -> Result<Vec<Binding>, String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        bindings(&owned(variables), &owned(files), &[]).map_err(|wrong| wrong.to_string())
    }

    fn in_mapping(text: &str) -> Result<Vec<Binding>, String> {
        let mut plan = Plan::default();
        plan.mapping(Path::new("map"), text).map_err(|wrong| wrong.to_string())?;
        Ok(plan.bindings)
    }

    #[test]
    fn names_are_those_of_variables_and_stand_once() {
        let made = of(&["A_1=/a"], &["_b=/a"]).unwrap();
        assert_eq!(
            made.iter().map(|one| (one.name.as_str(), one.way)).collect::<Vec<_>>(),
            [("A_1", Way::Variable), ("_b", Way::File)]
        );
        for name in ["", "1A", "A-B", "A B", "É", "A\0"] {
            assert!(of(&[&format!("{name}=/a")], &[]).unwrap_err().contains("no name for a variable"), "{name:?}");
        }
        assert_eq!(of(&["A=/a"], &["A=/b"]).unwrap_err(), "--file: `A` is given twice, first by --env");
        assert!(of(&["A"], &[]).unwrap_err().contains("NAME=KEY"));
        assert!(of(&[], &[]).unwrap_err().contains("nothing to give"));
    }

    #[test]
    fn a_mapping_file_is_told_by_its_line_and_never_quoted() {
        let made = in_mapping("# all of it\n\n  A=/a\nB=/b/c\n").unwrap();
        assert_eq!(made.len(), 2);
        assert_eq!(in_mapping("A=/a\nA=/b\n").unwrap_err(), "map:2: `A` is given twice, first by map:1");
        for value in ["postgres://u:s3cr3t@host/db", "s3cr3t", "/s3cr3t/", "\"/s3cr3t\""] {
            let error = in_mapping(&format!("\nURL={value}\n")).unwrap_err();
            assert!(
                error.starts_with("map:2: what `URL` stands for is no key") && !error.contains("s3cr3t"),
                "{error}"
            );
        }
    }
}
