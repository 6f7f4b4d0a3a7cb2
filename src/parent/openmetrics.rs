//! Metrics as text: OpenMetrics 1.0, the part of it that gauges and counters without exemplars need.
//!
//! A writer and no registry: every number stands in the engine already, and is read when somebody asks.

use std::fmt::{Display, Write};

/// The media type of what [`Exposition::end`] gives.
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// One metric family after the other.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
    name: &'static str,
    suffix: &'static str,
}

impl Exposition {
    /// The samples that follow are of this family. `unit` is empty or the last word of the name.
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, unit: &'static str, help: &str) {
        let (word, suffix) = if kind == Kind::Counter { ("counter", "_total") } else { ("gauge", "") };
        (self.name, self.suffix) = (name, suffix);
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# TYPE {name} {word}");
        if !unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.text, "# HELP {name} {}", escaped(help));
    }

    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let Self { text, name, suffix } = self;
        let _ = write!(text, "{name}{suffix}");
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(text, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(value));
        }
        let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    pub(super) fn end(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_samples_and_the_end() {
        let mut told = Exposition::default();
        told.family(Kind::Counter, "a_requests", "", "Requests");
        told.sample(&[("client", "x\"\\\ny"), ("verdict", "hit")], 3);
        told.family(Kind::Gauge, "a_age_seconds", "seconds", "Age");
        told.sample(&[], 1.5);
        assert_eq!(
            told.end(),
            "# TYPE a_requests counter\n# HELP a_requests Requests\n\
             a_requests_total{client=\"x\\\"\\\\\\ny\",verdict=\"hit\"} 3\n\
             # TYPE a_age_seconds gauge\n# UNIT a_age_seconds seconds\n# HELP a_age_seconds Age\na_age_seconds 1.5\n# EOF\n"
        );
    }
}
