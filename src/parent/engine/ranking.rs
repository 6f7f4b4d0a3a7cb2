//! Which of the values of a key with parameters goes when there is one too many. Pure: no clock but its own counting.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::config::Eviction;
use crate::secret::KeyPath;

/// For whom an entry was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    User(u32),
    /// It was found at the start, and nobody has asked for it since.
    Nobody,
    /// The same, and it has no value to serve: it goes before all others.
    Nothing,
}

/// The entries of one key, in the order in which they go: those of each owner by themselves.
pub(super) struct Ranking {
    eviction: Eviction,
    places: HashMap<KeyPath, (Owner, Rank)>,
    by_owner: HashMap<Owner, BTreeSet<(Rank, KeyPath)>>,
    /// Counts uses.
    now: u64,
}

/// The lowest goes first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Always zero where only the time counts.
    uses: u64,
    last: u64,
}

impl Ranking {
    pub(super) fn new(eviction: Eviction) -> Self {
        Self { eviction, places: HashMap::new(), by_owner: HashMap::new(), now: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// A new entry, as one that was just used.
    pub(super) fn insert(&mut self, key: KeyPath, owner: Owner) {
        self.remove(&key);
        self.place(key, owner, Rank::default(), 1);
    }

    /// All of them with owner and uses, the one that was used last at the end.
    pub(super) fn in_order(&self) -> Vec<(KeyPath, Owner, u64)> {
        let mut all: Vec<_> = self.places.iter().collect();
        all.sort_unstable_by_key(|(_, (_, rank))| rank.last);
        all.into_iter().map(|(key, (owner, rank))| (key.clone(), *owner, rank.uses)).collect()
    }

    /// One that was used so often before, now as the one that was used last.
    pub(super) fn move_in(&mut self, key: KeyPath, owner: Owner, uses: u64) {
        self.remove(&key);
        self.place(key, owner, Rank::default(), uses.max(1));
    }

    /// It was asked for so often. The first to ask for an entry of nobody becomes its owner.
    pub(super) fn touch(&mut self, key: &KeyPath, by: Option<u32>, times: u64) {
        if let Some((owner, rank)) = self.take(key) {
            let owner = match (owner, by) {
                (Owner::Nobody | Owner::Nothing, Some(uid)) => Owner::User(uid),
                (owner, _) => owner,
            };
            self.place(key.clone(), owner, rank, times);
        }
    }

    /// Whose it was.
    pub(super) fn remove(&mut self, key: &KeyPath) -> Option<Owner> {
        self.take(key).map(|(owner, _)| owner)
    }

    fn place(&mut self, key: KeyPath, owner: Owner, before: Rank, times: u64) {
        self.now += 1;
        let uses = match self.eviction {
            Eviction::Lru => 0,
            Eviction::Lfu => before.uses.saturating_add(times),
        };
        let rank = Rank { uses, last: self.now };
        self.by_owner.entry(owner).or_default().insert((rank, key.clone()));
        self.places.insert(key, (owner, rank));
    }

    fn take(&mut self, key: &KeyPath) -> Option<(Owner, Rank)> {
        let (key, (owner, rank)) = self.places.remove_entry(key)?;
        if let Some(ranks) = self.by_owner.get_mut(&owner) {
            ranks.remove(&(rank, key));
            if ranks.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        Some((owner, rank))
    }

    /// The entry that makes room for a new one, which is among them already: of the owner with the most, and among
    /// equals of the new one's own; rather one that nobody is fetching.
    pub(super) fn victim(&self, new: Option<&KeyPath>, busy: impl Fn(&KeyPath) -> bool) -> Option<KeyPath> {
        let own = new.and_then(|new| self.places.get(new)).map(|(owner, _)| *owner);
        let first =
            |ranks: &BTreeSet<(Rank, KeyPath)>| ranks.iter().find(|(_, key)| Some(key) != new).map(|(rank, _)| *rank);
        let losing = self.by_owner.iter().filter_map(|(owner, ranks)| Some((owner, ranks, first(ranks)?)));
        let (_, ranks, _) = losing.max_by_key(|(owner, ranks, first)| {
            (**owner == Owner::Nothing, ranks.len(), Some(**owner) == own, Reverse(*first))
        })?;
        let others = || ranks.iter().map(|(_, key)| key).filter(|key| Some(*key) != new);
        others().find(|key| !busy(key)).or_else(|| others().next()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> KeyPath {
        KeyPath::parse(&format!("/{name}")).unwrap()
    }

    fn ranking(eviction: Eviction, entries: &[(&str, u32)]) -> Ranking {
        let mut ranking = Ranking::new(eviction);
        entries.iter().for_each(|(name, owner)| ranking.insert(key(name), Owner::User(*owner)));
        ranking
    }

    fn victim(ranking: &Ranking, new: &str) -> String {
        ranking.victim(Some(&key(new)), |_| false).unwrap().as_str()[1..].to_owned()
    }

    #[test]
    fn the_least_recently_used_goes() {
        let mut lru = ranking(Eviction::Lru, &[("a", 1), ("b", 1), ("c", 1)]);
        (0..9).for_each(|_| lru.touch(&key("b"), Some(1), 1));
        lru.touch(&key("a"), Some(1), 1);
        lru.insert(key("new"), Owner::User(1));
        assert_eq!(victim(&lru, "new"), "c");
        lru.remove(&key("c"));
        assert_eq!(victim(&lru, "new"), "b", "how often does not count");
    }

    #[test]
    fn the_least_frequently_used_goes_and_of_equals_the_older_one() {
        let mut lfu = ranking(Eviction::Lfu, &[("a", 1), ("b", 1), ("c", 1)]);
        lfu.touch(&key("a"), Some(1), 5);
        lfu.touch(&key("b"), Some(1), 1);
        lfu.touch(&key("c"), Some(1), 1);
        lfu.touch(&key("b"), Some(1), 1);
        lfu.insert(key("new"), Owner::User(1));
        assert_eq!(victim(&lfu, "new"), "c");
        lfu.remove(&key("c"));
        assert_eq!(victim(&lfu, "new"), "b", "never the new one, though it was used least");
    }

    #[test]
    fn whoever_has_the_most_loses_one() {
        let mut shared = ranking(Eviction::Lru, &[("b1", 2), ("a1", 1), ("a2", 1), ("a3", 1)]);
        shared.insert(key("b2"), Owner::User(2));
        assert_eq!(victim(&shared, "b2"), "a1");
        shared.remove(&key("a1"));
        shared.insert(key("b3"), Owner::User(2));
        assert_eq!(victim(&shared, "b3"), "b1", "the new one counts");
        shared.remove(&key("b1"));
        assert_eq!(victim(&shared, "b3"), "b2", "two each: the one who wants one more");
        let mut single = ranking(Eviction::Lru, &[("a", 1)]);
        single.insert(key("b"), Owner::User(2));
        assert_eq!(victim(&single, "b"), "a");
    }

    #[test]
    fn what_is_nobodys_becomes_whoevers_asks_first() {
        let mut found = Ranking::new(Eviction::Lru);
        ["x", "y", "z"].into_iter().for_each(|name| found.insert(key(name), Owner::Nobody));
        found.touch(&key("x"), Some(1), 1);
        found.touch(&key("x"), Some(2), 1);
        found.insert(key("new"), Owner::User(3));
        assert_eq!(victim(&found, "new"), "y");
        found.remove(&key("y"));
        found.remove(&key("z"));
        assert_eq!(found.places[&key("x")].0, Owner::User(1));
        ["e", "f"].into_iter().for_each(|name| found.insert(key(name), Owner::Nothing));
        found.touch(&key("e"), Some(9), 1);
        assert_eq!(victim(&found, "new"), "f", "what has no value goes first, whoever has how many");
    }

    #[test]
    fn what_is_being_fetched_goes_last_of_its_owners() {
        let mut busy = ranking(Eviction::Lru, &[("a", 1), ("b", 1), ("c", 2)]);
        busy.insert(key("new"), Owner::User(1));
        let victim = |is_busy: fn(&KeyPath) -> bool| busy.victim(Some(&key("new")), is_busy).unwrap();
        assert_eq!(victim(|key| key.as_str() == "/a"), key("b"));
        assert_eq!(victim(|_| true), key("a"), "but still of this owner's");
    }

    proptest! {
        #[test]
        fn nobody_loses_more_than_down_to_the_share_of_others(adds in prop::collection::vec((0..4u32, 0..40usize), 1..200)) {
            const MOST: usize = 12;
            let mut ranking = Ranking::new(Eviction::Lfu);
            for (owner, name) in adds {
                let key = key(&format!("{owner}-{name}"));
                if ranking.places.contains_key(&key) {
                    ranking.touch(&key, Some(owner), 1);
                    continue;
                }
                let before: HashMap<Owner, usize> = ranking.by_owner.iter().map(|(o, r)| (*o, r.len())).collect();
                ranking.insert(key.clone(), Owner::User(owner));
                if ranking.len() > MOST {
                    let victim = ranking.victim(Some(&key), |_| false).unwrap();
                    prop_assert_ne!(&victim, &key);
                    let (loser, _) = ranking.places[&victim];
                    let most = before.values().max().unwrap();
                    let left = ranking.by_owner[&loser].len() - 1;
                    prop_assert!(loser == Owner::User(owner) || left + 1 == *most);
                    ranking.remove(&victim);
                }
                prop_assert!(ranking.len() <= MOST);
                let listed: usize = ranking.by_owner.values().map(BTreeSet::len).sum();
                prop_assert_eq!(listed, ranking.len());
                prop_assert!(ranking.by_owner.values().all(|ranks| !ranks.is_empty()));
            }
        }
    }
}
