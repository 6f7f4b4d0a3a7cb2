//! Paths of keys with parameters: their entries are made when somebody asks, last once they have a value, and go when
//! there are too many.
//!
//! Bounded in all respects: entries by `max-entries`, paths without a value by [`MOST_PASSING`], whoever asks for what.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::documents::{DocumentId, Documents};
use super::entry::{Entry, Held, Standing};
use super::ranking::{Owner, Ranking};
use crate::config::{Document, KeyTemplate, Source, expand};
use crate::ipc::wire::Reply;
use crate::parent::cache::{Definition, Label, Ledger, Listing};
use crate::secret::KeyPath;

/// Paths of one key that are being fetched for the first time, or that were not found: their failures are remembered.
pub(super) const MOST_PASSING: usize = 256;
/// How many of those that are being fetched one user may have made.
const MOST_FETCHED_FOR_ONE: usize = MOST_PASSING / 2;
/// A path without a value is forgotten when nobody has asked for it for so long.
const PASSING_FOR: Duration = Duration::from_secs(60);
/// What to tell who finds all places taken.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// One key with parameters, and what there is of its paths.
pub(super) struct Table {
    pub(super) key: KeyTemplate,
    pub(super) lasting: Ranking,
    /// In the order in which they came.
    pub(super) passing: Vec<Passing>,
}

pub(super) struct Passing {
    key: KeyPath,
    uid: u32,
    asked: Instant,
}

/// A path with something on disk.
pub(super) struct OnDisk {
    pub(super) key: KeyPath,
    template: usize,
    pub(super) source: Source,
}

/// A request that is being answered from an entry: the entry stays until this is dropped.
pub(super) struct InHand {
    engine: Rc<Engine>,
    key: KeyPath,
    held: Option<Rc<()>>,
}

impl Drop for InHand {
    /// The end of a request: what was there for it alone goes.
    fn drop(&mut self) {
        self.held = None;
        self.engine.let_go(&self.key);
    }
}

pub(super) fn tables(templates: &[KeyTemplate]) -> Vec<Table> {
    let table =
        |key: &KeyTemplate| Table { key: key.clone(), lasting: Ranking::new(key.eviction), passing: Vec::new() };
    templates.iter().map(table).collect()
}

/// The paths that have a file, the oldest first, and those that are too many. What has another definition now counts:
/// it serves again when the change is taken back.
pub(super) fn on_disk(
    templates: &[KeyTemplate],
    fixed: &HashMap<KeyPath, Definition>,
    listing: &Listing,
    ledger: &Ledger,
) -> (Vec<OnDisk>, Vec<KeyPath>) {
    if templates.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let mut instants: BTreeMap<&KeyPath, u64> = BTreeMap::new();
    for sealed in &listing.sealed {
        let (key, at) = match &sealed.label {
            Label::Value(label) | Label::Withheld(label) => {
                (&label.key, ledger.fetched_at(&label.key, label.fetched_at))
            }
            Label::Tombstone(tombstone) => (&tombstone.key, tombstone.buried_at),
            Label::State(_) => continue,
        };
        if !fixed.contains_key(key) {
            let instant = instants.entry(key).or_default();
            *instant = at.max(*instant);
        }
    }
    let mut newest: Vec<(&KeyPath, u64)> = instants.into_iter().collect();
    newest.sort_unstable_by_key(|(_, at)| Reverse(*at));
    let mut counts = vec![0; templates.len()];
    let (mut found, mut surplus) = (Vec::new(), Vec::new());
    for (key, _) in newest {
        let Some((template, source)) = expand(templates.iter(), key) else { continue };
        counts[template] += 1;
        if counts[template] > templates[template].max_entries {
            surplus.push(key.clone());
        } else {
            found.push(OnDisk { key: key.clone(), template, source });
        }
    }
    found.reverse();
    (found, surplus)
}

/// Makes the entry of a path that was found on disk. It is nobody's.
pub(super) fn restore(
    found: OnDisk,
    held: Option<Held>,
    ledger: &Ledger,
    tables: &mut [Table],
    documents: &mut Documents,
    entries: &mut HashMap<KeyPath, Entry>,
) {
    let OnDisk { key, template, source } = found;
    let Some(table) = tables.get_mut(template) else { return };
    let mut entry = table.entry(documents, &key, source, Standing::Lasting(template));
    let owner = if held.is_some() { Owner::Nobody } else { Owner::Nothing };
    entry.find(held, ledger.is_withheld(&key));
    if let (Some(state), Some(every)) = (documents.get_mut(entry.document), entry.settings.refresh) {
        state.refresh = Some(state.refresh.map_or(every, |known| known.min(every)));
    }
    table.lasting.insert(key.clone(), owner);
    entries.insert(key, entry);
}

impl Table {
    pub(super) fn in_order(&self) -> Vec<(KeyPath, Owner, u64)> {
        self.lasting.in_order()
    }

    pub(super) fn any_document(&self) -> Document {
        self.key.source.any_document()
    }

    pub(super) fn move_in(&mut self, key: KeyPath, owner: Owner, uses: u64) {
        self.lasting.move_in(key, owner, uses);
    }

    pub(super) fn entry(&self, documents: &mut Documents, key: &KeyPath, source: Source, standing: Standing) -> Entry {
        let settings = self.key.settings.clone();
        let document = documents.enter(&source.document, key.clone(), &settings);
        let definition = Definition::of(&source.definition);
        let mut entry = Entry::new(document, source.projection, definition, settings, None);
        entry.standing = standing;
        entry
    }
}

impl Engine {
    /// Makes sure that a key has an entry until what this gives is dropped: for a path of a key with parameters one is made, if
    /// there is room.
    ///
    /// # Errors
    /// The reply to whoever asks for what is no key, or for one path too many.
    pub(super) fn enter(self: &Rc<Self>, key: &KeyPath, uid: u32) -> Result<InHand, Reply> {
        let enter = |entry: &Entry| (entry.standing, entry.in_hand.clone());
        let (standing, held) = self.entries.borrow().get(key).map(enter).unzip();
        let held = match standing {
            None => Some(self.begin(key, uid)?),
            Some(_) => held,
        };
        match standing {
            None | Some(Standing::Fixed | Standing::Leaving(..)) => {}
            Some(Standing::Lasting(template)) => {
                self.with_table(template, |table| table.lasting.touch(key, Some(uid), 1));
            }
            Some(Standing::Passing(template)) => {
                self.with_table(template, |table| {
                    let known = table.passing.iter_mut().find(|passing| passing.key == *key);
                    known.into_iter().for_each(|passing| passing.asked = Instant::now());
                });
            }
        }
        Ok(InHand { engine: self.clone(), key: key.clone(), held })
    }

    /// Drops an entry that is not to stay once nobody is busy with it.
    pub(super) fn let_go(&self, key: &KeyPath) {
        let over = |entry: &Entry| match entry.standing {
            Standing::Fixed | Standing::Lasting(_) => false,
            Standing::Leaving(..) => true,
            // Nothing has come of it, not even a failure.
            Standing::Passing(_) => entry.is_blank(),
        };
        if self.entries.borrow().get(key).is_some_and(over) && !self.is_busy(key) {
            self.drop_entry(key);
        }
    }

    fn with_table<T>(&self, template: usize, act: impl FnOnce(&mut Table) -> T) -> Option<T> {
        self.expanded.borrow_mut().get_mut(template).map(act)
    }

    /// Somebody asks for a path that has no entry yet.
    fn begin(&self, key: &KeyPath, uid: u32) -> Result<Rc<()>, Reply> {
        let expanded = expand(self.expanded.borrow().iter().map(|table| &table.key), key);
        let (template, source) = expanded.ok_or(Reply::Denied)?;
        // A key without parameters comes first, and takes no arguments.
        if key.arguments().is_some() && self.is_fixed(&key.alone()) {
            return Err(Reply::Denied);
        }
        if !self.make_room(template, uid) {
            tracing::warn!(uid, %key, "too many paths of its key are being fetched for the first time");
            return Err(Reply::OverBudget { retry_after: TRY_AGAIN });
        }
        let begun = self.with_table(template, |table| {
            let entry = table.entry(&mut self.documents.borrow_mut(), key, source, Standing::Passing(template));
            let held = entry.in_hand.clone();
            self.entries.borrow_mut().insert(key.clone(), entry);
            table.passing.push(Passing { key: key.clone(), uid, asked: Instant::now() });
            held
        });
        begun.ok_or(Reply::Denied)
    }

    fn is_fixed(&self, key: &KeyPath) -> bool {
        let is = |entry: &Entry| matches!(entry.standing, Standing::Fixed);
        self.entries.borrow().get(key).is_some_and(is) || self.parts_of(key).is_some()
    }

    /// Room for one more path without a value: that of the oldest failure, rather of the user with the most.
    fn make_room(&self, template: usize, uid: u32) -> bool {
        let oldest = {
            let tables = self.expanded.borrow();
            let Some(table) = tables.get(template) else { return false };
            let busy = |passing: &Passing| self.is_busy(&passing.key);
            let fetched_for = table.passing.iter().filter(|passing| passing.uid == uid && busy(passing)).count();
            if fetched_for >= MOST_FETCHED_FOR_ONE {
                return false;
            }
            if table.passing.len() < MOST_PASSING {
                return true;
            }
            let mut counts: HashMap<u32, usize> = HashMap::new();
            table.passing.iter().for_each(|passing| *counts.entry(passing.uid).or_default() += 1);
            let idle = table.passing.iter().enumerate().filter(|(_, passing)| !busy(passing));
            let first = idle.min_by_key(|(at, passing)| (Reverse(counts[&passing.uid]), *at));
            first.map(|(_, passing)| passing.key.clone())
        };
        oldest.is_some_and(|key| {
            self.drop_entry(&key);
            true
        })
    }

    /// It is being fetched, or somebody is being answered from it.
    fn is_busy(&self, key: &KeyPath) -> bool {
        let entries = self.entries.borrow();
        let fetched = |entry: &Entry| self.documents.borrow().in_flight(entry.document);
        entries.get(key).is_some_and(|entry| entry.is_in_hand() || fetched(entry))
    }

    /// A path that has a value stays, and another one goes if that makes one too many.
    pub(super) fn take_place(&self, key: &KeyPath) {
        let Some((template, owner)) = self.to_stay(key) else { return };
        self.with_table(template, |table| {
            let at = table.passing.iter().position(|passing| passing.key == *key);
            let asker = at.map(|at| Owner::User(table.passing.remove(at).uid));
            table.lasting.insert(key.clone(), asker.unwrap_or(owner));
        });
        self.renew_refresh(key);
        self.shrink(template, Some(key));
    }

    /// As many paths go as are too many, and not this one.
    pub(super) fn shrink(&self, template: usize, except: Option<&KeyPath>) {
        loop {
            let victim = {
                let tables = self.expanded.borrow();
                let Some(table) = tables.get(template) else { return };
                if table.lasting.len() <= table.key.max_entries {
                    return;
                }
                table.lasting.victim(except, |other| self.is_busy(other))
            };
            let Some(victim) = victim else { return };
            self.evict(&victim);
        }
    }

    /// Lets an entry with a value stay that was not to; whose it was.
    fn to_stay(&self, key: &KeyPath) -> Option<(usize, Owner)> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(key).filter(|entry| entry.held.is_some())?;
        let (template, owner) = match entry.standing {
            Standing::Passing(template) => (template, Owner::Nobody),
            Standing::Leaving(template, owner) => (template, owner),
            Standing::Fixed | Standing::Lasting(_) => return None,
        };
        entry.standing = Standing::Lasting(template);
        Some((template, owner))
    }

    /// Out of both memories and off the disk. Who is being answered still gets the value, and it is not kept.
    pub(super) fn evict(&self, key: &KeyPath) {
        tracing::debug!(%key, "evicted");
        if let Some(entry) = self.entries.borrow_mut().get_mut(key)
            && let Standing::Lasting(template) = entry.standing
        {
            self.recall(key, entry);
            let owner = self.with_table(template, |table| table.lasting.remove(key)).flatten();
            entry.standing = Standing::Leaving(template, owner.unwrap_or(Owner::Nobody));
            if let Some(held) = &mut entry.held {
                held.on_disk = Rc::default();
            }
        }
        self.ledger.borrow_mut().forget(key);
        self.scribe.remove_behind(key.clone());
        self.let_go(key);
    }

    /// Nothing is known of this path any more.
    fn drop_entry(&self, key: &KeyPath) {
        let Some(entry) = self.entries.borrow_mut().remove(key) else { return };
        if let Standing::Passing(template) = entry.standing {
            self.with_table(template, |table| table.passing.retain(|passing| passing.key != *key));
        }
        let (of, refreshed) = (entry.document, entry.settings.refresh.is_some());
        self.documents.borrow_mut().leave(of, key);
        if refreshed {
            self.renew_refresh_of(of);
        }
    }

    fn renew_refresh(&self, key: &KeyPath) {
        let document =
            self.entries.borrow().get(key).filter(|entry| entry.settings.refresh.is_some()).map(|entry| entry.document);
        document.into_iter().for_each(|document| self.renew_refresh_of(document));
    }

    /// How often a document is refreshed follows from the keys that have a value of it, or are of the configuration.
    pub(super) fn renew_refresh_of(&self, document: DocumentId) {
        let (entries, mut documents) = (self.entries.borrow(), self.documents.borrow_mut());
        if let Some(state) = documents.get_mut(document) {
            let lasting = state.keys.iter().filter_map(|key| entries.get(key)).filter(|entry| entry.is_listed());
            state.refresh = lasting.filter_map(|entry| entry.settings.refresh).min();
        }
    }

    /// The worker has answered from its memory this often. Its word decides what goes first, and nothing else.
    pub(in crate::parent) fn count_uses(&self, uses: &[(KeyPath, u32)]) {
        for (key, times) in uses {
            if let Some(Standing::Lasting(template)) = self.entries.borrow().get(key).map(|entry| entry.standing) {
                self.with_table(template, |table| table.lasting.touch(key, None, u64::from(*times)));
            }
        }
    }

    /// Forgets paths without a value some time after the last one asked. Does not end.
    pub(in crate::parent) async fn forget_passing(self: Rc<Self>) {
        loop {
            tokio::time::sleep(PASSING_FOR / 2).await;
            let over: Vec<KeyPath> = {
                let tables = self.expanded.borrow();
                let passing = tables.iter().flat_map(|table| &table.passing);
                passing.filter(|one| one.asked.elapsed() > PASSING_FOR).map(|one| one.key.clone()).collect()
            };
            over.iter().filter(|key| !self.is_busy(key)).for_each(|key| self.drop_entry(key));
        }
    }
}
