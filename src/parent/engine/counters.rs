//! What the operator is told of by number: requests, fetches, recalls, and how each token does.
//!
//! Every table is as large as the configuration and never grows: names that are not in it are not counted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Engine;
use super::documents::Origin;
use super::entry::Standing;
use crate::acl::Acl;
use crate::config::{Document, Key, KeyTemplate, TokenName};
use crate::ipc::wire::{Counted, Served};
use crate::outcome::{Class, Failure, Reason};
use crate::parent::upstream::Answer;
use crate::secret::KeyPath;

type Row = [u64; Served::ALL.len()];

/// How an upstream last took a token.
#[derive(Clone, Copy)]
pub(super) struct Proof {
    /// It was accepted, not refused.
    pub(super) accepted: bool,
    pub(super) at: Instant,
}

pub(super) struct Counters {
    /// By client. The worker's word.
    granted: RefCell<BTreeMap<String, Row>>,
    /// Where no client grants.
    others: Cell<Row>,
    /// By origin, the outcome's name.
    fetches: RefCell<BTreeMap<String, BTreeMap<&'static str, u64>>>,
    /// Every token of the configuration.
    tokens: RefCell<BTreeMap<TokenName, Option<Proof>>>,
    /// Every origin of the configuration.
    origins: RefCell<Vec<Origin>>,
    templates: RefCell<Vec<String>>,
    /// Answers of keys with parameters, by their number.
    pub(super) of_templates: RefCell<Vec<u64>>,
    recalls: Cell<u64>,
    connections: Cell<u32>,
    pub(super) started: Instant,
}

/// All names of a configuration that are counted.
pub(super) struct Names {
    clients: Vec<String>,
    origins: Vec<Origin>,
    tokens: Vec<TokenName>,
    templates: Vec<String>,
}

impl Names {
    pub(super) fn of<'c>(
        keys: &[Key],
        templates: &[KeyTemplate],
        acl: &Acl,
        tokens: impl IntoIterator<Item = &'c TokenName>,
    ) -> Self {
        let fixed = keys.iter().map(|key| key.source.document.clone());
        let documents = fixed.chain(templates.iter().map(|key| key.source.any_document()));
        let mut origins: Vec<Origin> = documents.map(|document| (document.origin(), document.token_names())).collect();
        origins.sort_unstable();
        origins.dedup();
        Self {
            clients: acl.clients.iter().map(|one| one.name.clone()).collect(),
            origins,
            tokens: tokens.into_iter().cloned().collect(),
            templates: templates.iter().map(|key| key.template.to_string()).collect(),
        }
    }
}

/// What is known of these names, and nothing of others.
fn keep<N: Ord, C: Default>(known: &RefCell<BTreeMap<N, C>>, names: impl IntoIterator<Item = N>) {
    let mut before = known.take();
    let of = |name: N| (before.remove(&name).unwrap_or_default(), name);
    known.replace(names.into_iter().map(of).map(|(count, name)| (name, count)).collect());
}

impl Counters {
    pub(super) fn new(names: Names) -> Self {
        let counters = Self {
            granted: RefCell::default(),
            others: Cell::default(),
            fetches: RefCell::default(),
            tokens: RefCell::default(),
            origins: RefCell::default(),
            templates: RefCell::default(),
            of_templates: RefCell::default(),
            recalls: Cell::default(),
            connections: Cell::default(),
            started: Instant::now(),
        };
        counters.renew(names);
        counters
    }

    /// Counts these from now on. Names that were known keep their counts.
    pub(super) fn renew(&self, names: Names) {
        keep(&self.granted, names.clients);
        keep(&self.fetches, names.origins.iter().map(|(origin, _)| origin.clone()));
        keep(&self.tokens, names.tokens);
        self.origins.replace(names.origins);
        let before: BTreeMap<String, u64> = self.templates.take().into_iter().zip(self.of_templates.take()).collect();
        let serves = names.templates.iter().map(|name| before.get(name).copied().unwrap_or_default());
        self.of_templates.replace(serves.collect());
        self.templates.replace(names.templates);
    }

    /// What an upstream has said of the token that is in use from now on.
    pub(super) fn prove(&self, name: &TokenName) {
        if let Some(proof) = self.tokens.borrow_mut().get_mut(name) {
            *proof = Some(Proof { accepted: true, at: Instant::now() });
        }
    }

    pub(super) fn count_fetch(&self, document: &Document, answer: &Result<Answer, Failure>) {
        let name = match answer {
            Ok(Answer::Answered { .. }) => "answered",
            Ok(Answer::NotModified) => "not-modified",
            Ok(Answer::Raised(_)) => "exception",
            Ok(Answer::Reached) => "reached",
            Err(failure) => failure.class.name(),
        };
        if let Some(counts) = self.fetches.borrow_mut().get_mut(&document.origin()) {
            *counts.entry(name).or_default() += 1;
        }
        let accepted = match answer {
            Ok(_) => true,
            Err(failure) if failure.class == Class::TokenRefused || failure.reason == Reason::Status(401) => false,
            // Says nothing of the token.
            Err(_) => return,
        };
        let mut tokens = self.tokens.borrow_mut();
        for token in document.token_names() {
            if let Some(proof) = tokens.get_mut(&token) {
                *proof = Some(Proof { accepted, at: Instant::now() });
            }
        }
    }

    pub(super) fn count_recall(&self) {
        self.recalls.set(self.recalls.get() + 1);
    }

    pub(super) fn recalls(&self) -> u64 {
        self.recalls.get()
    }

    pub(super) fn connections(&self) -> u32 {
        self.connections.get()
    }

    pub(super) fn origins(&self) -> Vec<Origin> {
        self.origins.borrow().clone()
    }

    pub(super) fn has_token(&self, name: &TokenName) -> bool {
        self.tokens.borrow().contains_key(name)
    }

    pub(super) fn for_each_token(&self, mut act: impl FnMut(&TokenName, Option<Proof>)) {
        self.tokens.borrow().iter().for_each(|(name, proof)| act(name, *proof));
    }

    /// Client (none: nobody was granted anything), verdict, count.
    pub(super) fn for_each_request(&self, mut act: impl FnMut(Option<&str>, Served, u64)) {
        for (served, count) in Served::ALL.into_iter().zip(self.others.get()) {
            act(None, served, count);
        }
        for (name, row) in self.granted.borrow().iter() {
            Served::ALL.into_iter().zip(row).for_each(|(served, count)| act(Some(name), served, *count));
        }
    }

    /// Origin, outcome, count.
    pub(super) fn for_each_fetch(&self, mut act: impl FnMut(&str, &str, u64)) {
        for (origin, counts) in self.fetches.borrow().iter() {
            counts.iter().for_each(|(name, count)| act(origin, name, *count));
        }
    }

    fn count_requests(&self, counted: &Counted) {
        let add = |row: &mut Row, served: Served, count: u32| {
            if let Some(place) = row.get_mut(served as usize) {
                *place = place.saturating_add(count.into());
            }
        };
        let (mut granted, mut others) = (self.granted.borrow_mut(), self.others.get());
        for (client, served, count) in &counted.requests {
            match client {
                None => add(&mut others, *served, *count),
                Some(client) => granted.get_mut(client).into_iter().for_each(|row| add(row, *served, *count)),
            }
        }
        self.others.set(others);
        self.connections.set(counted.connections);
    }
}

impl Engine {
    /// A credential that was given, with its key, or refused.
    pub(in crate::parent) fn count_credential(&self, client: Option<&str>, served: Served, key: Option<&KeyPath>) {
        let requests = vec![(client.map(str::to_owned), served, 1)];
        let serves = key.map(|key| (key.clone(), 1)).into_iter().collect();
        self.count_served(&Counted { connections: self.counters.connections(), requests, serves });
    }

    /// What the worker has answered. It can lie about these numbers, and that changes nothing else.
    pub(in crate::parent) fn count_served(&self, counted: &Counted) {
        self.counters.count_requests(counted);
        let mut entries = self.entries.borrow_mut();
        let mut of_templates = self.counters.of_templates.borrow_mut();
        for (key, count) in &counted.serves {
            for part in self.parts_of(key).iter().flat_map(|parts| parts.iter()) {
                if let Some(entry) = entries.get_mut(part) {
                    entry.serves = entry.serves.saturating_add((*count).into());
                }
            }
            let Some(entry) = entries.get_mut(key) else { continue };
            entry.serves = entry.serves.saturating_add((*count).into());
            if let Standing::Lasting(at) | Standing::Passing(at) | Standing::Leaving(at, _) = entry.standing
                && let Some(total) = of_templates.get_mut(at)
            {
                *total = total.saturating_add((*count).into());
            }
        }
    }
}
