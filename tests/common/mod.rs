//! Configurations from texts, and a name service without a machine.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;

use keyhatch::config::{Resolver, SourceText};
use nix::unistd::{Gid, Uid};

/// A few users and groups.
pub(crate) struct Names;

impl Resolver for Names {
    fn user(&self, name: &str) -> Result<Option<(Uid, Gid)>, String> {
        let ids = match name {
            "root" => (0, 0),
            "keyhatch" => (900, 900),
            "keyhatch-worker" => (901, 901),
            "billing" => (1001, 1001),
            "nobody" => (65534, 65534),
            "broken" => return Err("the name service does not answer".to_owned()),
            _ => return Ok(None),
        };
        Ok(Some((Uid::from_raw(ids.0), Gid::from_raw(ids.1))))
    }

    fn primary_group(&self, uid: Uid) -> Result<Option<Gid>, String> {
        Ok((uid.as_raw() == 1001).then_some(Gid::from_raw(1001)))
    }

    fn group(&self, name: &str) -> Result<Option<Gid>, String> {
        Ok((name == "deploy").then_some(Gid::from_raw(2001)))
    }
}

/// A main file, and after each line `#=== NAME` another file.
pub(crate) fn sources(text: &str) -> Vec<SourceText> {
    let mut files = vec![SourceText { path: PathBuf::from("keyhatch.toml"), text: String::new() }];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("#=== ") {
            Some(name) => files.push(SourceText { path: PathBuf::from(name.trim()), text: String::new() }),
            None => files.last_mut().unwrap().text.push_str(line),
        }
    }
    files
}
