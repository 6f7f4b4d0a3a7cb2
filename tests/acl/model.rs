//! The access rules once more, as naively as they read: what the real ones are compared with.
//!
//! Knows the text of the configuration and numbers; shares no code with what it checks.

use std::fmt::Write as _;

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) anyone: bool,
    pub(crate) users: Option<Vec<u32>>,
    pub(crate) dynamic: bool,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) units: Option<Vec<String>>,
    pub(crate) keys: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Someone {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) unit: Option<String>,
    pub(crate) certain: bool,
}

/// `*` by trying all lengths.
fn text_matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some((b'*', rest)), _) => (0..=text.len()).any(|eaten| text_matches(rest, &text[eaten..])),
        (Some((want, rest)), Some((have, more))) => want == have && text_matches(rest, more),
        (Some(_), None) => false,
    }
}

fn segments_match(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", rest)) => (0..=path.len()).any(|eaten| segments_match(rest, &path[eaten..])),
        Some((first, rest)) => {
            !path.is_empty() && text_matches(first.as_bytes(), path[0].as_bytes()) && segments_match(rest, &path[1..])
        }
    }
}

pub(crate) fn path_matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern[1..].split('/').collect();
    let path: Vec<&str> = path[1..].split('/').collect();
    segments_match(&pattern, &path)
}

impl Rule {
    fn is(&self, one: &Someone) -> bool {
        if self.anyone {
            return true;
        }
        if self.users.is_none() && !self.dynamic && self.groups.is_none() {
            return false;
        }
        let named = one.uid != 65534 && self.users.iter().flatten().any(|uid| *uid == one.uid);
        let in_range = self.dynamic && self.units.is_some() && one.uid >= 61184 && one.uid <= 65519;
        if (self.users.is_some() || self.dynamic) && !named && !in_range {
            return false;
        }
        if let Some(gids) = &self.groups {
            let mut all = one.groups.clone();
            all.push(one.gid);
            if !all.into_iter().filter(|gid| *gid != 65534).any(|gid| gids.contains(&gid)) {
                return false;
            }
        }
        if let Some(units) = &self.units {
            let Some(unit) = &one.unit else { return false };
            if !one.certain && !named {
                return false;
            }
            return units.iter().any(|pattern| text_matches(pattern.as_bytes(), unit.as_bytes()));
        }
        true
    }

    /// As it stands in a configuration.
    pub(crate) fn text(&self, name: usize) -> String {
        let mut text = format!("[clients.c{name}]\nkeys = {:?}\n", self.keys);
        if self.anyone {
            return text + "anyone = true\n";
        }
        let mut users: Vec<String> = self.users.iter().flatten().map(u32::to_string).collect();
        users.extend(self.dynamic.then(|| "\"dynamic\"".to_owned()));
        if !users.is_empty() {
            writeln!(text, "user = [{}]", users.join(", ")).unwrap();
        }
        if let Some(groups) = &self.groups {
            writeln!(text, "group = {groups:?}").unwrap();
        }
        if let Some(units) = &self.units {
            writeln!(text, "unit = {units:?}").unwrap();
        }
        text
    }
}

/// The number of the first rule that grants.
pub(crate) fn judge(rules: &[Rule], one: &Someone, path: &str) -> Option<usize> {
    rules.iter().position(|rule| rule.is(one) && rule.keys.iter().any(|pattern| path_matches(pattern, path)))
}
