//! A change of the configuration, in two steps: what may take its time is looked up while the old one holds, and then the new
//! one is put in its place at once, between two answers.
//!
//! A key whose definition is the same keeps its value, its age, and what is known of its source; all else of the old
//! configuration goes. Nothing on disk is removed here: that has its time.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::Engine;
use super::composed::compositions;
use super::counters::Names;
use super::documents::Documents;
use super::entry::{Entry, Held, Standing};
use super::expanded::{self, OnDisk, Table};
use super::open;
use super::ranking::Owner;
use crate::config::{Document, Key, KeyTemplate, Live, TokenName, expand};
use crate::parent::cache::{Definition, Ledger, Listing};
use crate::parent::pace::Pace;
use crate::parent::upstream::{SourceInputs, Sources, TlsSetupError};
use crate::parent::vault::{Candidate, Replacement, Vault};
use crate::secret::KeyPath;

/// What is on disk for keys that have no value in the old configuration, or one of another definition.
pub(in crate::parent) struct Prepared {
    definitions: HashMap<KeyPath, Definition>,
    held: HashMap<KeyPath, Held>,
    expanded: Vec<OnDisk>,
}

/// What a change has led to.
pub(in crate::parent) struct Reconfigured {
    /// Keys that are not in the configuration any more; one with several sources is one key.
    pub(in crate::parent) removed: usize,
    /// Keys that had a value of another definition.
    pub(in crate::parent) redefined: usize,
    /// The number of the reload.
    pub(in crate::parent) reload: u64,
    /// New names.
    pub(in crate::parent) taken: Vec<TokenName>,
    /// What is to be tried.
    pub(in crate::parent) changed: Vec<(TokenName, Candidate)>,
}

/// Those that were handed over, and the names of those that stay as they are.
pub(in crate::parent) struct NewTokens {
    pub(in crate::parent) given: Vault,
    pub(in crate::parent) kept: Vec<TokenName>,
}

impl Engine {
    /// The sources of another configuration; the connections that are still of use stay.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(in crate::parent) fn renewed_sources(
        &self,
        live: &Live,
        inputs: SourceInputs,
    ) -> Result<Sources, TlsSetupError> {
        self.sources.borrow().renewed(live, inputs)
    }

    /// Notes on disk which keys have left: from then on their time runs.
    pub(in crate::parent) async fn mark_left(self: Rc<Self>) {
        self.forget_left().await;
    }

    /// Looks at the disk, if there is anything to be found that is not known.
    pub(in crate::parent) async fn prepare(&self, live: &Live) -> Prepared {
        let definition = |key: &Key| (key.path.clone(), Definition::of(&key.source.definition));
        let mut definitions: HashMap<KeyPath, Definition> = live.keys.iter().map(definition).collect();
        let known = {
            let entries = self.entries.borrow();
            let same = |(key, definition): (&KeyPath, &Definition)| {
                entries.get(key).is_some_and(|entry| entry.definition == *definition)
            };
            live.templates.is_empty() && definitions.iter().all(same)
        };
        if known {
            return Prepared { definitions, held: HashMap::new(), expanded: Vec::new() };
        }
        // What is on its way off the disk may still be listed.
        let mut leaving = self.scribe.leaving();
        let listed = self.reader.run(|store| store.list()).await;
        leaving.append(&mut self.scribe.leaving());
        let listing = listed.and_then(Result::ok).unwrap_or_else(|| {
            tracing::error!("the cache directory cannot be listed: new keys begin without a value");
            Listing::default()
        });
        let mut ledger = self.ledger.borrow_mut();
        let (mut expanded, _) = expanded::on_disk(&live.templates, &definitions, &listing, &ledger);
        expanded.retain(|one| !leaving.contains(&one.key));
        definitions.extend(expanded.iter().map(|one| (one.key.clone(), Definition::of(&one.source.definition))));
        let entries = self.entries.borrow();
        let mut held = HashMap::new();
        for (key, found) in open::values(&listing, &ledger, &definitions) {
            // What is in memory is newer.
            if leaving.contains(key)
                || entries.get(key).is_some_and(|entry| definitions.get(key) == Some(&entry.definition))
            {
                continue;
            }
            if found.as_ref().is_ok_and(|candidate| candidate.withheld) {
                ledger.withhold(key, true);
            }
            let largest = live.limits.value_size;
            match found.and_then(|sealed| open::hold(largest, &self.store, &self.memory, &ledger, sealed)) {
                Ok(value) => drop(held.insert(key.clone(), value)),
                Err(problem) => tracing::warn!(%key, %problem, "no last known good"),
            }
        }
        Prepared { definitions, held, expanded }
    }

    /// Puts it in the place of what there is. Whoever calls takes back all leases in the same breath.
    pub(in crate::parent) fn reconfigure(
        self: &Rc<Self>,
        live: Live,
        prepared: Prepared,
        sources: Sources,
        tokens: NewTokens,
    ) -> Reconfigured {
        let Prepared { mut definitions, mut held, expanded } = prepared;
        // A drill is about the configuration that it began with.
        self.end_drills();
        self.counters.renew(Names::of(&live.keys, &live.templates, &live.acl, &live.tokens));
        let went = self.token_origins();
        let mut before = std::mem::take(&mut *self.entries.borrow_mut());
        let (configured, mut redefined) = (live.keys.len(), HashSet::new());
        let wholes: HashSet<KeyPath> = live.keys.iter().map(|key| key.path.whole()).collect();
        let templates = {
            let mut documents = self.documents.borrow_mut();
            let mut of_key = documents.arrange(&live.keys);
            self.compositions.replace(compositions(live.keys.iter().map(|key| &key.path)));
            let mut entries = HashMap::with_capacity(configured);
            for key in live.keys {
                let (Some(document), Some(definition)) = (of_key.remove(&key.path), definitions.remove(&key.path))
                else {
                    continue;
                };
                let known = before.remove(&key.path);
                if known.as_ref().is_some_and(|known| known.definition != definition && known.held.is_some()) {
                    redefined.insert(key.path.whole());
                }
                let new =
                    || Entry::new(document, key.source.projection.clone(), definition, key.settings.clone(), None);
                let mut entry = known.filter(|known| known.definition == definition).unwrap_or_else(|| {
                    let mut entry = new();
                    entry.find(held.remove(&key.path), self.ledger.borrow().is_withheld(&key.path));
                    entry
                });
                entry.move_to(document, key.settings, Standing::Fixed);
                entries.insert(key.path, entry);
            }
            let mut tables = expanded::tables(&live.templates);
            let old_tables = self.expanded.take();
            let ledger = self.ledger.borrow();
            let found = (&mut held, &*ledger);
            keep_paths(&old_tables, &live.templates, &mut before, found, &mut tables, &mut documents, &mut entries);
            for found in expanded {
                if !entries.contains_key(&found.key) {
                    let held = held.remove(&found.key);
                    expanded::restore(found, held, &ledger, &mut tables, &mut documents, &mut entries);
                }
            }
            documents.drop_idle();
            let templates = tables.len();
            self.entries.replace(entries);
            self.expanded.replace(tables);
            templates
        };
        let fixed = before.iter().filter(|(_, entry)| entry.standing == Standing::Fixed).map(|(key, _)| key.whole());
        let removed = fixed.filter(|key| !wholes.contains(key)).collect::<HashSet<_>>().len();
        let redefined = redefined.len();
        drop(before);
        self.sources.replace(Rc::new(sources));
        let (vault, tokens) = self.vault().replaced_by(tokens.given, &tokens.kept, (&went, &self.token_origins()));
        let named = |wanted| tokens.iter().filter(move |(_, of)| *of == wanted).map(|(name, _)| name.clone());
        let taken: Vec<TokenName> = named(Replacement::New).collect();
        self.try_anew(&taken);
        let candidate = |name: TokenName| vault.candidate(&name).map(|candidate| (name, candidate));
        let changed = named(Replacement::Changed).filter_map(candidate).collect();
        self.vault.replace(Rc::new(vault));
        self.sources.borrow().forget_sessions(&self.vault());
        self.budget.borrow_mut().set_rate(live.limits.fetches_per_user);
        self.memory.set_limit(live.limits.memory);
        (0..templates).for_each(|template| self.shrink(template, None));
        self.trim_all();
        self.forget_origins();
        let all: Vec<_> = self.documents.borrow().iter().map(|(id, _)| id).collect();
        all.into_iter().for_each(|document| self.renew_refresh_of(document));
        self.reloads.send_modify(|reloads| *reloads += 1);
        self.refresh_ahead();
        Reconfigured { removed, redefined, reload: self.reloaded(), taken, changed }
    }

    /// What has failed for want of what a reload brings is not waited for any longer: files are opened anew, and these tokens
    /// were not there.
    fn try_anew(&self, taken: &[TokenName]) {
        let mut documents = self.documents.borrow_mut();
        let mut entries = self.entries.borrow_mut();
        for state in documents.iter_mut() {
            let is_file = matches!(*state.document, Document::File(_));
            if is_file || taken.iter().any(|token| state.document.needs(token)) {
                state.pace.succeed();
                for key in state.keys.iter() {
                    if let Some(entry) = entries.get_mut(key) {
                        (entry.negative_until, entry.pace) = (None, Pace::default());
                    }
                }
            }
        }
    }

    /// Back-off of what nobody asks any more.
    fn forget_origins(&self) {
        let documents = self.documents.borrow();
        let asked: std::collections::HashSet<_> = documents.iter().map(|(_, state)| &state.origin).collect();
        self.origins.borrow_mut().retain(|origin, _| asked.contains(origin));
    }
}

/// Paths that have had a value stay with what they have, in the order of their use, if they are still paths of some key.
fn keep_paths(
    old: &[Table],
    templates: &[KeyTemplate],
    before: &mut HashMap<KeyPath, Entry>,
    (held, ledger): (&mut HashMap<KeyPath, Held>, &Ledger),
    tables: &mut [Table],
    documents: &mut Documents,
    entries: &mut HashMap<KeyPath, Entry>,
) {
    for (key, owner, uses) in old.iter().flat_map(Table::in_order) {
        let Some(known) = before.remove(&key) else { continue };
        let Some((template, source)) = expand(templates.iter(), &key) else { continue };
        let Some(table) = tables.get_mut(template) else { continue };
        let mut entry = table.entry(documents, &key, source, Standing::Lasting(template));
        if known.definition == entry.definition {
            let (document, settings) = (entry.document, entry.settings);
            entry = known;
            entry.move_to(document, settings, Standing::Lasting(template));
        } else {
            entry.find(held.remove(&key), ledger.is_withheld(&key));
        }
        let owner = if entry.held.is_some() { owner } else { Owner::Nothing };
        table.move_in(key.clone(), owner, uses);
        entries.insert(key, entry);
    }
}
