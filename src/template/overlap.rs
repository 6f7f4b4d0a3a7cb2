//! Whether two templates stand for the same path, as far as that can be told.

use super::{Constraint, Template};

/// What can be said of two templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlap {
    /// No path is inside of both.
    None,
    /// Some are, such as this one if there is one to name.
    Certain { example: Option<String> },
    /// It takes more than reading the two to tell.
    Unknown,
}

/// The same for one parameter.
enum Shared {
    Nothing,
    This(String),
    Something,
    Unknown,
}

pub(super) fn of(a: &Template, b: &Template) -> Overlap {
    if a.shape.segments() != b.shape.segments() {
        let literal = a.shape.segments().iter().zip(b.shape.segments());
        let differ = literal.into_iter().any(|(a, b)| a.0.len() == 1 && b.0.len() == 1 && a != b);
        let lengths = a.shape.segments().len() != b.shape.segments().len();
        return if differ || lengths { Overlap::None } else { Overlap::Unknown };
    }
    let shared: Vec<Shared> = a.constraints.iter().zip(&b.constraints).map(|(a, b)| shared(a, b)).collect();
    if shared.iter().any(|shared| matches!(shared, Shared::Nothing)) {
        // With two parameters in one segment, the same text can be read in another way.
        let one_way = a.shape.segments().iter().all(|segment| segment.0.len() <= 2);
        return if one_way { Overlap::None } else { Overlap::Unknown };
    }
    if shared.iter().any(|shared| matches!(shared, Shared::Unknown)) {
        return Overlap::Unknown;
    }
    let values: Option<Vec<&str>> = shared
        .iter()
        .map(|shared| if let Shared::This(value) = shared { Some(value.as_str()) } else { None })
        .collect();
    let example = values.map(|values| {
        let mut values = values.into_iter();
        let texts = a.shape.with_each(|_| "\0");
        texts.split('\0').enumerate().fold(String::new(), |path, (at, text)| {
            let value = if at > 0 { values.next().unwrap_or_default() } else { "" };
            path + value + text
        })
    });
    Overlap::Certain { example }
}

fn shared(a: &Constraint, b: &Constraint) -> Shared {
    let listed = a.values().map(|values| (values, b)).or(b.values().map(|values| (values, a)));
    match listed {
        Some((values, other)) => {
            let found = values.iter().find(|value| other.admits(value));
            found.map_or(Shared::Nothing, |value| Shared::This(value.clone()))
        }
        None if a.pattern() == b.pattern() => Shared::Something,
        None => Shared::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::template;
    use super::*;

    fn overlap(a: (&str, &[&str]), b: (&str, &[&str])) -> Overlap {
        let (a, b) = (template(a.0, a.1), template(b.0, b.1));
        let there = a.overlap(&b);
        assert_eq!(there, b.overlap(&a));
        there
    }

    fn certain(example: &str) -> Overlap {
        Overlap::Certain { example: Some(example.to_owned()) }
    }

    #[test]
    fn what_is_listed_can_be_told() {
        assert_eq!(overlap(("/a/{x}", &["p q"]), ("/a/{y}", &["q r"])), certain("/a/q"));
        assert_eq!(overlap(("/a/{x}", &["p q"]), ("/a/{y}", &["r s"])), Overlap::None);
        assert_eq!(overlap(("/a/{x}", &["p q"]), ("/a/{y}", &["/[a-p]/"])), certain("/a/p"));
        assert_eq!(overlap(("/{x}/{z}", &["p q", "/.+/"]), ("/{y}/{z}", &["r", "/.+/"])), Overlap::None);
        let both = Overlap::Certain { example: None };
        assert_eq!(overlap(("/{x}/{z}", &["p q", "/.+/"]), ("/{y}/{z}", &["q", "/.+/"])), both);
        assert_eq!(overlap(("/{x}-{y}", &["p", "q"]), ("/{x}-{y}", &["p", "q"])), certain("/p-q"));
    }

    #[test]
    fn other_literal_text_is_another_place() {
        assert_eq!(overlap(("/a/{x}", &["/.+/"]), ("/b/{x}", &["/.+/"])), Overlap::None);
        assert_eq!(overlap(("/a/{x}", &["/.+/"]), ("/a/{x}/c", &["/.+/"])), Overlap::None);
        assert_eq!(overlap(("/a/{x}", &["/.+/"]), ("/{x}/b", &["/.+/"])), Overlap::Unknown);
        assert_eq!(overlap(("/a/{x}", &["/.+/"]), ("/a/v{x}", &["/.+/"])), Overlap::Unknown);
        assert_eq!(overlap(("/a/{x}", &["/a+/"]), ("/a/{x}", &["/b+/"])), Overlap::Unknown);
        assert_eq!(overlap(("/{x}-{y}", &["a", "b-c"]), ("/{x}-{y}", &["a-b", "c"])), Overlap::Unknown);
    }
}
