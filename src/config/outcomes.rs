//! What answers of an upstream are taken for, where its statuses do not say it: `outcomes` and `rate-limit`.

use super::diagnostic::Report;
use super::projection::plain_pointer;
use super::table::{Bad, Node, Table};
use super::{OutcomeClass, OutcomeRule, RateLimit, Test, names, values};
use crate::template::Whole;

/// More than any upstream needs; each is looked at for every bad answer.
const MAX_RULES: usize = 64;

pub(super) fn rules(node: &Node<'_>, report: &mut Report<'_>) -> Vec<OutcomeRule> {
    let Some(items) = node.as_list() else {
        let example =
            "for example: outcomes = [{ status = 400, pointer = \"/code\", one-of = \"NotFound\", class = \"gone\" }]";
        report.error(node.expected("a list of tables").help(example));
        return Vec::new();
    };
    if items.len() > MAX_RULES {
        report.error(node.error(format!("`{}` has more than {MAX_RULES} entries", node.name)));
    }
    items.iter().filter_map(|item| rule(item, report)).collect()
}

fn rule(node: &Node<'_>, report: &mut Report<'_>) -> Option<OutcomeRule> {
    let before = report.errors.len();
    let table = node.table(report, &names::OUTCOME)?;
    let statuses = table.get("status").map(|node| statuses(&node, report)).unwrap_or_default();
    let header = table.get("header").and_then(|node| node.parsed(report, header_name));
    let pointer = table.get("pointer").and_then(|node| node.parsed(report, plain_pointer));
    let test = test(&table, report);
    let class = table.require(report, "class", "\"gone\"").and_then(|node| node.word(report, names::CLASSES));
    let looks = table.get("header").or(table.get("pointer"));
    if let (Some(header), Some(pointer)) = (table.get("header"), table.get("pointer")) {
        let error = pointer.error("`header` and `pointer` exclude each other");
        report.error(error.also(header.place(), "the other one"));
    }
    if let Some(node) = table.get("one-of").or(table.get("matches")).filter(|_| looks.is_none()) {
        let error = node.error(format!("`{}` needs `header` or `pointer`: it says what stands there", node.name));
        report.error(error);
    }
    if looks.is_none() && table.get("status").is_none() && report.errors.len() == before {
        let help = "legal are status, header and pointer, one or two of them";
        report.error(node.error("this entry would hold for every answer that is not good").help(help));
    }
    if looks.is_none() && statuses.iter().any(|status| is_good(*status)) {
        report.error(node.error("this entry would hold for every good answer").help("add `header` or `pointer`"));
    }
    let class = match class? {
        "unavailable" => OutcomeClass::Unavailable,
        "rate-limited" => OutcomeClass::RateLimited,
        "token-refused" => OutcomeClass::TokenRefused,
        "refused" => OutcomeClass::Refused,
        "gone" => OutcomeClass::Gone,
        _ => OutcomeClass::Misconfigured,
    };
    let rule = OutcomeRule { statuses, header, pointer, test: test?, class };
    (report.errors.len() == before).then_some(rule)
}

fn is_good(status: u16) -> bool {
    matches!(status, 200 | 203)
}

fn statuses(node: &Node<'_>, report: &mut Report<'_>) -> Vec<u16> {
    let mut statuses = Vec::new();
    for item in node.one_or_many(report).unwrap_or_default() {
        let status = item.integer(report, 200, 599).and_then(|status| u16::try_from(status).ok());
        match status {
            Some(300..=399) => {
                let help = "redirects are followed within their origin, and 304 is an answer to our own condition";
                report.error(item.error("a status of 3xx has its meaning").help(help));
            }
            Some(status) => statuses.push(status),
            None => {}
        }
    }
    statuses
}

fn test(table: &Table<'_>, report: &mut Report<'_>) -> Option<Test> {
    match (table.get("one-of"), table.get("matches")) {
        (None, None) => Some(Test::There),
        (Some(words), None) => {
            let items = words.one_or_many(report)?;
            let words: Vec<String> = items.iter().filter_map(|item| item.string(report)).map(str::to_owned).collect();
            (words.len() == items.len()).then_some(Test::OneOf(words))
        }
        (None, Some(pattern)) => {
            let pattern =
                pattern.parsed(report, |_, text| Whole::new(text).map_err(|error| Bad::new(error.to_string())));
            pattern.map(Test::Matches)
        }
        (Some(words), Some(pattern)) => {
            let error = pattern.error("`one-of` and `matches` exclude each other");
            report.error(error.also(words.place(), "the other one"));
            None
        }
    }
}

pub(super) fn rate_limit(node: &Node<'_>, report: &mut Report<'_>) -> Option<RateLimit> {
    let table = node.table(report, &names::RATE_LIMIT)?;
    let remaining = table.require(report, "remaining", "\"X-Rate-Limit-Remaining\"");
    let remaining = remaining.and_then(|node| node.parsed(report, header_name));
    let reset = table.get("reset").map(|node| node.parsed(report, header_name));
    match reset {
        Some(reset) => Some(RateLimit { remaining: remaining?, reset: Some(reset?) }),
        None => Some(RateLimit { remaining: remaining?, reset: None }),
    }
}

fn header_name(name: &str, text: &str) -> Result<String, Bad> {
    if values::is_header_name(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Bad::new(format!("`{name}` is not the name of a header")))
}
