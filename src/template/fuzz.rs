//! Keys with parameters. Input: lines; the text of a template, of each parameter `=words` or `~expression`, then another
//! template or paths.

use regex::bytes::RegexBuilder;

use super::{Constraint, Found, Overlap, Reading, Shape, Template, check_value, find};
use crate::acl::Pattern;
use crate::fuzz::{self, Start};
use crate::secret::KeyPath;

/// A template and the texts of its constraints, from the lines.
fn parsed<'a>(lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Option<(Template, Vec<&'a str>)> {
    let shape = Shape::parse(lines.next()?).ok()?;
    let (mut constraints, mut texts) = (Vec::new(), Vec::new());
    while constraints.len() < shape.parameters().len() {
        let line = lines.next()?;
        texts.push(line);
        constraints.push(match line.strip_prefix('~') {
            Some(pattern) if pattern.len() < 64 => Constraint::matching(pattern).ok()?,
            Some(_) => return None,
            None => {
                let words = line.strip_prefix('=')?.split(' ');
                // As the configuration demands.
                words.clone().all(|word| check_value(word).is_ok()).then_some(())?;
                Constraint::one_of(words.map(str::to_owned).collect())
            }
        });
    }
    Some((Template::new(shape, constraints)?, texts))
}

/// The path with these values: by the text of the template, not by its parts.
fn filled(template: &Template, values: &[String]) -> String {
    let names = template.parameters().iter();
    names.zip(values).fold(template.to_string(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// Whether a constraint has this value, from its text alone.
fn allows(constraint: &str, value: &str) -> bool {
    match constraint.strip_prefix('~') {
        // With flags an expression is not what it is alone.
        Some(pattern) if pattern.contains("(?") => Constraint::matching(pattern).is_ok_and(|it| it.admits(value)),
        Some(pattern) => {
            RegexBuilder::new(&format!("^(?:{pattern})$")).unicode(false).build().unwrap().is_match(value.as_bytes())
        }
        None => constraint[1..].split(' ').any(|word| word == value),
    }
}

fn inside(template: &Template, constraints: &[&str], path: &KeyPath) -> bool {
    let Reading::Inside(values) = template.read(path) else { return false };
    assert_eq!(values.len(), constraints.len());
    assert_eq!(filled(template, &values), path.as_str(), "{template}: {values:?}");
    for (value, constraint) in values.iter().zip(constraints) {
        assert!(check_value(value).is_ok() && !value.contains('/') && value != "..", "{template}: {value:?}");
        assert!(allows(constraint, value), "{template}: {value:?} is against {constraint:?}");
    }
    let covered = template.as_patterns().iter().any(|pattern| Pattern::parse(pattern).unwrap().matches(path));
    assert!(covered, "{path} is in none of {:?}", template.as_patterns());
    true
}

#[test]
fn template() {
    let words =
        &["{a}", "{b}", "{a}-{b}", "/{c}", "\n=a b\n", "\n~[a-z]+\n", "~.*", "..", "/a", "-", "\n/", "(?x)", "a|b"];
    fuzz::run("template", Start { words, ..Start::default() }, |input| {
        let text = String::from_utf8_lossy(input);
        let mut lines = text.lines().peekable();
        let Some((first, of_first)) = parsed(&mut lines) else { return vec![(0, 0, false)] };
        let mut rest = lines.clone();
        let second = if lines.peek().is_some_and(|line| line.contains('{')) { parsed(&mut rest) } else { None };
        let overlap = second.as_ref().map(|(second, _)| first.overlap(second));
        if let (Some(Overlap::Certain { example: Some(example) }), Some((second, of_second))) = (&overlap, &second)
            && let Ok(path) = KeyPath::parse(example)
        {
            assert!(inside(&first, &of_first, &path) && inside(second, of_second, &path), "{example}");
        }
        let mut saw = vec![(first.parameters().len(), overlap.as_ref().map_or(0, course), false)];
        for line in rest.take(16) {
            // A path, or values for one.
            let values: Vec<String> = line.split(' ').map(str::to_owned).collect();
            if values.len() == of_first.len()
                && of_first.iter().zip(&values).all(|(of, value)| check_value(value).is_ok() && allows(of, value))
                && let Ok(path) = KeyPath::parse(&filled(&first, &values))
            {
                assert!(inside(&first, &of_first, &path), "{first} does not know its own {path}");
                let alone = !first.shape.segments().iter().any(|segment| segment.0.len() > 2);
                assert!(!alone || first.read(&path) == Reading::Inside(values), "{path}");
                saw.push((first.parameters().len(), 10, alone));
            }
            let Ok(path) = KeyPath::parse(line) else { continue };
            let in_first = inside(&first, &of_first, &path);
            let in_second = second.as_ref().is_some_and(|(second, of_second)| inside(second, of_second, &path));
            assert!(!(in_first && in_second && overlap == Some(Overlap::None)), "{path} is in both");
            let all = [Some(&first), second.as_ref().map(|(second, _)| second)];
            let found = match find(all.into_iter().flatten(), &path) {
                Found::Inside { template, .. } => Some(template),
                _ => None,
            };
            assert_eq!(found, in_first.then_some(0).or(in_second.then_some(1)));
            saw.push((usize::from(in_first) + 2 * usize::from(in_second), 20, found.is_some()));
        }
        saw
    });
}

fn course(overlap: &Overlap) -> u8 {
    match overlap {
        Overlap::None => 1,
        Overlap::Certain { example: None } => 2,
        Overlap::Certain { example: Some(_) } => 3,
        Overlap::Unknown => 4,
    }
}
