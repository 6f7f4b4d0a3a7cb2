//! The class of an answer by the rules of its source: by status, a header, or what stands in its body. Pure.
//!
//! Nothing of a body leaves this: what comes out is a class.

use hyper::header::HeaderMap;

use super::extract::is_scalar;
use super::project::raw;
use super::select::Places;
use super::unescape::unescape;
use crate::config::{OutcomeClass, OutcomeRule, Test};
use crate::outcome::{Class, Failure, Reason};

/// The longest body of an answer that is not good, in bytes, in which rules look for something.
pub(super) const MAX_BODY: usize = 64 << 10;

/// The rules that may hold for an answer with this head. `good`: it is an answer with a value.
pub(super) fn of_head<'r>(
    rules: &'r [OutcomeRule],
    status: u16,
    headers: &HeaderMap,
    good: bool,
) -> impl Iterator<Item = &'r OutcomeRule> {
    rules.iter().filter(move |rule| {
        let of_status = if rule.statuses.is_empty() { !good } else { rule.statuses.contains(&status) };
        let of_header = rule.header.as_ref().is_none_or(|name| {
            let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.any(|value| holds(&rule.test, value))
        });
        of_status && of_header
    })
}

/// The class of the first of these rules that holds; `body` is `None` where there is none to look at.
pub(super) fn judge<'r>(rules: impl Iterator<Item = &'r OutcomeRule>, body: Option<&[u8]>) -> Option<OutcomeClass> {
    let mut rules = rules;
    let body = body.and_then(|body| raw(body).ok());
    let holds = |rule: &&OutcomeRule| match &rule.pointer {
        None => true,
        Some(tokens) => body.is_some_and(|body| stands(body, tokens, &rule.test)),
    };
    rules.find(holds).map(|rule| rule.class)
}

fn stands(body: &str, tokens: &[String], test: &Test) -> bool {
    let mut places = Places::new();
    let place = places.add(tokens.iter().map(String::as_str));
    let Some(found) = places.find(body).ok().and_then(|found| found[place]).filter(|found| *found != "null") else {
        return false;
    };
    match test {
        Test::There => true,
        Test::OneOf(words) => words.iter().any(|word| is_scalar(found, word)),
        Test::Matches(whole) => match found.as_bytes().first() {
            Some(b'"') => unescape(found).is_some_and(|text| whole.is_match(&text)),
            Some(b'{' | b'[') | None => false,
            Some(_) => whole.is_match(found),
        },
    }
}

fn holds(test: &Test, value: &str) -> bool {
    match test {
        Test::There => true,
        Test::OneOf(words) => words.iter().any(|word| word == value),
        Test::Matches(whole) => whole.is_match(value),
    }
}

/// What becomes of an answer with this status that a rule has a class for. What the upstream asked to wait stays.
pub(super) fn failure(class: OutcomeClass, status: u16, judged: Option<Failure>) -> Failure {
    let (class, reason) = match class {
        OutcomeClass::Unavailable => (Class::Unavailable, Reason::Status(status)),
        OutcomeClass::RateLimited => (Class::Unavailable, Reason::RateLimited(status)),
        OutcomeClass::TokenRefused => (Class::TokenRefused, Reason::Status(status)),
        OutcomeClass::Refused => (Class::Refused, Reason::Status(status)),
        OutcomeClass::Gone => (Class::Gone, Reason::Status(status)),
        OutcomeClass::Misconfigured => (Class::Misconfigured, Reason::Status(status)),
    };
    Failure { class, reason, retry_after: judged.and_then(|failure| failure.retry_after) }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;
    use crate::template::Whole;

    fn rule(statuses: &[u16], pointer: Option<&str>, test: Test, class: OutcomeClass) -> OutcomeRule {
        let pointer = pointer.map(|text| text.split('/').skip(1).map(str::to_owned).collect());
        OutcomeRule { statuses: statuses.to_vec(), header: None, pointer, test, class }
    }

    fn judged(rules: &[OutcomeRule], status: u16, body: Option<&str>) -> Option<OutcomeClass> {
        judge(of_head(rules, status, &HeaderMap::new(), status == 200), body.map(str::as_bytes))
    }

    #[test]
    fn the_first_rule_that_holds_counts() {
        let matches = |text: &str| Test::Matches(Whole::new(text).unwrap());
        let rules = [
            rule(&[400], Some("/__type"), matches("(.*#)?ResourceNotFound.*"), OutcomeClass::Gone),
            rule(&[400], Some("/__type"), matches("(.*#)?Throttling.*"), OutcomeClass::RateLimited),
            rule(&[], Some("/errors/0"), Test::OneOf(vec!["sealed".into(), "5".into()]), OutcomeClass::Unavailable),
            rule(&[400, 472], None, Test::There, OutcomeClass::Refused),
            rule(&[200], Some("/error"), Test::There, OutcomeClass::Misconfigured),
        ];
        let gone = r#"{"__type":"com.amazonaws.secretsmanager#ResourceNotFoundException","Message":"x"}"#;
        assert_eq!(judged(&rules, 400, Some(gone)), Some(OutcomeClass::Gone));
        assert_eq!(judged(&rules, 400, Some(&format!("\r\n {gone}\n"))), Some(OutcomeClass::Gone));
        assert_eq!(judged(&rules, 400, Some(r#"{"__type":"ThrottlingException"}"#)), Some(OutcomeClass::RateLimited));
        assert_eq!(judged(&rules, 418, Some(r#"{"errors":["\u0073ealed"]}"#)), Some(OutcomeClass::Unavailable));
        assert_eq!(judged(&rules, 418, Some(r#"{"errors":[5]}"#)), Some(OutcomeClass::Unavailable));
        for body in [None, Some("<html>"), Some("{\"__type\":null}"), Some("{\"__type\":[]}"), Some("{\"errors\":[")] {
            assert_eq!(judged(&rules, 400, body), Some(OutcomeClass::Refused), "{body:?}");
            assert_eq!(judged(&rules, 418, body), None, "{body:?}");
        }
        assert_eq!(judged(&rules, 200, Some("{\"error\":false}")), Some(OutcomeClass::Misconfigured));
        assert_eq!(judged(&rules, 200, Some("{\"error\":null,\"errors\":[5]}")), None);
    }

    #[test]
    fn a_header_may_say_it() {
        let mut throttled = rule(&[403], None, Test::OneOf(vec!["true".into()]), OutcomeClass::RateLimited);
        throttled.header = Some("x-throttled".into());
        let rules = [throttled];
        let said = |value: &str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("x-throttled"), value.parse().unwrap())]);
            judge(of_head(&rules, 403, &headers, false), None)
        };
        assert_eq!((said("true"), said("false")), (Some(OutcomeClass::RateLimited), None));
        assert_eq!(judged(&rules, 403, None), None);
    }
}
