//! Keys with parameters: which paths they stand for, and the values of the parameters in a path.
//!
//! Pure, and the same code in both roles. Never lets a value out of its segment of the path, whatever a constraint says.
#![forbid(unsafe_code)]

mod constraint;
#[cfg(test)]
mod fuzz;
mod overlap;
mod shape;

pub use constraint::{Constraint, ConstraintError, MAX_PATTERN, Whole, check_value};
pub use overlap::Overlap;
pub use shape::{Shape, ShapeError, is_parameter_name};

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::secret::KeyPath;

/// The longest value of a parameter, in bytes.
pub const MAX_VALUE: usize = 256;
/// More combinations of listed values are not gone through.
const MAX_PATTERNS: usize = 1024;

/// The path of a key with parameters, and what each of them may be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Template {
    shape: Shape,
    /// One for each parameter, in the order of their names in the path.
    constraints: Vec<Constraint>,
}

/// As it crosses from role to role: what arrives is checked as what is configured.
#[derive(Serialize, Deserialize)]
struct Written {
    path: String,
    constraints: Vec<Constraint>,
}

impl From<Template> for Written {
    fn from(template: Template) -> Self {
        Self { path: template.to_string(), constraints: template.constraints }
    }
}

impl TryFrom<Written> for Template {
    type Error = ShapeError;

    fn try_from(written: Written) -> Result<Self, ShapeError> {
        let shape = Shape::parse(&written.path)?;
        Self::new(shape, written.constraints).ok_or(ShapeError::Unconstrained)
    }
}

/// What a path is to a template.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading<'t> {
    /// Not one of its paths, whatever the parameters are.
    Elsewhere,
    /// It would be, if this parameter could have this value.
    Outside { parameter: &'t str },
    /// The values, in the order of the parameters.
    Inside(Vec<String>),
}

/// What a path is to several templates, of which the first that it is inside of counts.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'t> {
    Nothing,
    Outside { template: usize, parameter: &'t str },
    Inside { template: usize, values: Vec<String> },
}

impl Template {
    /// `None` unless there is one constraint for each parameter.
    pub fn new(shape: Shape, constraints: Vec<Constraint>) -> Option<Self> {
        (shape.parameters().len() == constraints.len()).then_some(Self { shape, constraints })
    }

    /// The names, in the order in which they stand in the path.
    pub fn parameters(&self) -> &[String] {
        self.shape.parameters()
    }

    pub fn read(&self, key: &KeyPath) -> Reading<'_> {
        if !self.shape.fits(key) {
            return Reading::Elsewhere;
        }
        let mut values = Vec::with_capacity(self.constraints.len());
        for (at, segment) in key.segments().enumerate() {
            let first = values.len();
            let readings = self.shape.readings(at, segment);
            match readings.into_iter().find(|reading| self.failing(first, reading).is_none()) {
                Some(reading) => values.extend(reading.into_iter().map(str::to_owned)),
                None => {
                    let shortest = self.shape.readings(at, segment).into_iter().next();
                    let failing = shortest.and_then(|reading| self.failing(first, &reading)).unwrap_or(first);
                    let parameter = self.parameters().get(failing).map_or("", String::as_str);
                    return Reading::Outside { parameter };
                }
            }
        }
        Reading::Inside(values)
    }

    /// The first parameter, from `first` on, whose value is not legal.
    fn failing(&self, first: usize, values: &[&str]) -> Option<usize> {
        let constraints = self.constraints.iter().skip(first);
        let failing = constraints.zip(values).position(|(constraint, value)| !constraint.admits(value));
        failing.map(|at| first + at)
    }

    /// Patterns that cover all of its paths: with the values of parameters where they are listed, else with a star.
    pub fn as_patterns(&self) -> Vec<String> {
        let mut values: Vec<Vec<&str>> = vec![Vec::new()];
        for constraint in &self.constraints {
            let listed = constraint.values().filter(|listed| listed.len() * values.len() <= MAX_PATTERNS);
            let each = listed.map_or(vec!["*"], |listed| listed.iter().map(String::as_str).collect());
            let longer = values.iter().flat_map(|known| {
                each.iter().map(|value| known.iter().copied().chain(std::iter::once(*value)).collect())
            });
            values = longer.collect();
        }
        let pattern = |values: &Vec<&str>| {
            let mut values = values.iter();
            self.shape.with_each(|_| values.next().copied().unwrap_or("*"))
        };
        values.iter().map(pattern).collect()
    }

    /// Whether some path is inside of both.
    pub fn overlap(&self, other: &Self) -> Overlap {
        overlap::of(self, other)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.shape)
    }
}

/// Reads a path by these templates, in the order of their definition.
pub fn find<'t>(templates: impl IntoIterator<Item = &'t Template>, key: &KeyPath) -> Found<'t> {
    let mut found = Found::Nothing;
    for (template, one) in templates.into_iter().enumerate() {
        match one.read(key) {
            Reading::Inside(values) => return Found::Inside { template, values },
            Reading::Outside { parameter } if found == Found::Nothing => found = Found::Outside { template, parameter },
            Reading::Outside { .. } | Reading::Elsewhere => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each constraint is a list of words, or a pattern between slashes.
    pub(super) fn template(path: &str, constraints: &[&str]) -> Template {
        let constraint = |text: &&str| match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
            Some(pattern) => Constraint::matching(pattern).unwrap(),
            None => Constraint::one_of(text.split(' ').map(str::to_owned).collect()),
        };
        Template::new(Shape::parse(path).unwrap(), constraints.iter().map(constraint).collect()).unwrap()
    }

    fn key(path: &str) -> KeyPath {
        KeyPath::parse(path).unwrap()
    }

    fn inside(values: &[&str]) -> Reading<'static> {
        Reading::Inside(values.iter().map(|value| (*value).to_owned()).collect())
    }

    #[test]
    fn values_are_read_from_their_places() {
        let heroku = template("/heroku/{app}/{var}", &["billing shop", "/[A-Z_]+/"]);
        assert_eq!(heroku.read(&key("/heroku/shop/DATABASE_URL")), inside(&["shop", "DATABASE_URL"]));
        assert_eq!(heroku.read(&key("/heroku/other/DATABASE_URL")), Reading::Outside { parameter: "app" });
        assert_eq!(heroku.read(&key("/heroku/shop/database")), Reading::Outside { parameter: "var" });
        for elsewhere in ["/heroku/shop", "/heroku/shop/A/B", "/other/shop/A"] {
            assert_eq!(heroku.read(&key(elsewhere)), Reading::Elsewhere, "{elsewhere}");
        }
        assert_eq!(heroku.to_string(), "/heroku/{app}/{var}");
    }

    #[test]
    fn a_pattern_matches_the_whole_value_or_not_at_all() {
        for pattern in ["/a|ab/", "/^(a|ab)$/", "/(?i)AB?/", "/(?x) a b? # either/"] {
            let one = template("/x/{p}", &[pattern]);
            assert_eq!(one.read(&key("/x/ab")), inside(&["ab"]), "{pattern}");
            assert_eq!(one.read(&key("/x/abc")), Reading::Outside { parameter: "p" }, "{pattern}");
            assert_eq!(one.read(&key("/x/zab")), Reading::Outside { parameter: "p" }, "{pattern}");
        }
    }

    #[test]
    fn what_no_constraint_can_allow() {
        let anything = template("/x.{p}", &["/(?s).*/"]);
        for path in ["/x..", "/x...", "/x."] {
            assert_eq!(anything.read(&key(path)), Reading::Outside { parameter: "p" }, "{path}");
        }
        let long = |length: usize| key(&format!("/x.{}", "a".repeat(length)));
        assert!(matches!(anything.read(&long(256)), Reading::Inside(_)));
        assert_eq!(anything.read(&long(257)), Reading::Outside { parameter: "p" });
        assert_eq!(anything.read(&key("/x....")), inside(&["..."]));
    }

    #[test]
    fn of_several_ways_to_read_a_segment_the_shortest_legal_one_counts() {
        let any = template("/{a}-{b}", &["/.+/", "/.+/"]);
        assert_eq!(any.read(&key("/x-y-z")), inside(&["x", "y-z"]));
        let apps = template("/{a}-{b}", &["billing-prod shop", "url key"]);
        assert_eq!(apps.read(&key("/billing-prod-url")), inside(&["billing-prod", "url"]));
        assert_eq!(apps.read(&key("/billing-prod-x")), Reading::Outside { parameter: "a" });
        assert_eq!(apps.read(&key("/-url")), Reading::Outside { parameter: "a" });
        assert_eq!(apps.read(&key("/url")), Reading::Elsewhere);
        let framed = template("/v{a}.{b}z", &["/.+/", "/.+/"]);
        assert_eq!(framed.read(&key("/v1.2.3z")), inside(&["1", "2.3"]));
        assert_eq!(framed.read(&key("/vz")), Reading::Elsewhere, "prefix and suffix do not overlap");
    }

    #[test]
    fn the_first_template_that_a_path_is_inside_of_counts() {
        let templates =
            [template("/{a}/x", &["one two"]), template("/{b}/x", &["/t.*/"]), template("/one/{c}", &["x"])];
        let find = |path: &str| find(&templates, &key(path));
        assert_eq!(find("/two/x"), Found::Inside { template: 0, values: vec!["two".into()] });
        assert_eq!(find("/three/x"), Found::Inside { template: 1, values: vec!["three".into()] });
        assert_eq!(find("/one/x"), Found::Inside { template: 0, values: vec!["one".into()] });
        assert_eq!(find("/four/x"), Found::Outside { template: 0, parameter: "a" });
        assert_eq!(find("/one/y"), Found::Outside { template: 2, parameter: "c" });
        assert_eq!(find("/four/y"), Found::Nothing);
    }

    #[test]
    fn its_patterns_hold_what_is_listed() {
        let heroku = template("/heroku/{app}/{var}", &["shop billing", "/[A-Z_]+/"]);
        assert_eq!(heroku.as_patterns(), ["/heroku/billing/*", "/heroku/shop/*"]);
        let many = (0..40).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let large = template("/{a}-{b}/{c}", &[&many, &many, "x"]);
        assert_eq!(large.as_patterns().len(), 40);
        assert_eq!(large.as_patterns()[0], "/0-*/x");
    }

    #[test]
    fn it_crosses_to_the_other_role_as_it_is() {
        let sent = template("/a-{x}/{y}", &["p q", "/[a-z]+/"]);
        let bytes = postcard::to_stdvec(&sent).unwrap();
        let received: Template = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(received.read(&key("/a-q/abc")), inside(&["q", "abc"]));
        assert_eq!(received.read(&key("/a-r/abc")), Reading::Outside { parameter: "x" });
        assert_eq!(received.read(&key("/a-q/ABC")), Reading::Outside { parameter: "y" });
    }

    #[test]
    fn what_no_configuration_can_hold_does_not_arrive() {
        let arrives = |path: &str, constraints: &[Constraint]| {
            let written = Written { path: path.to_owned(), constraints: constraints.to_vec() };
            postcard::from_bytes::<Template>(&postcard::to_stdvec(&written).unwrap()).is_ok()
        };
        let any = Constraint::matching(".*").unwrap();
        assert!(arrives("/{a}-{b}", &[any.clone(), any.clone()]));
        assert!(!arrives("/{a}{b}", &[any.clone(), any.clone()]), "nothing between");
        assert!(!arrives("/{a}-{b}", std::slice::from_ref(&any)), "a parameter that may be anything");
        assert!(!arrives("/{a}", &[any.clone(), any]));
    }

    proptest! {
        /// Whatever is read, put in the places of the parameters, is the path; and is nothing that is never legal.
        #[test]
        fn values_and_path_are_one_to_one(path in "/(a|b)[A-Za-z0-9._~@:+-]{0,6}/[.a-c-]{1,8}-[.a-c-]{1,8}") {
            let Ok(key) = KeyPath::parse(&path) else { return Ok(()) };
            let template = template("/{x}/{y}-{z}", &["/.*/", "/.*/", "/[.a-c-]*/"]);
            if let Reading::Inside(values) = template.read(&key) {
                prop_assert_eq!(format!("/{}/{}-{}", values[0], values[1], values[2]), path);
                prop_assert!(values.iter().all(|value| check_value(value).is_ok()));
            }
        }
    }
}
