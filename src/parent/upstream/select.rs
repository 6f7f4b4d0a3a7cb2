//! Finds many places in one JSON text together: each level of it is walked once, however many places are below.
//!
//! Each walk skips over what nobody wants, so neither nesting nor length costs stack.

use std::collections::HashMap;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The places to find: a tree of names, the root being the whole text.
pub(super) struct Places<'p> {
    /// Of each place, the places in it by their names.
    within: Vec<HashMap<&'p [u8], usize>>,
}

impl<'p> Places<'p> {
    pub(super) fn new() -> Self {
        Self { within: vec![HashMap::new()] }
    }

    /// The number of the place that these tokens of a JSON pointer lead to (RFC 6901 section 4).
    pub(super) fn add(&mut self, tokens: impl IntoIterator<Item = &'p str>) -> usize {
        tokens.into_iter().fold(0, |at, token| {
            let next = self.within.len();
            let found = *self.within[at].entry(token.as_bytes()).or_insert(next);
            if found == next {
                self.within.push(HashMap::new());
            }
            found
        })
    }

    /// The text at each place, by its number; of equal names in an object, the last.
    pub(super) fn find<'d>(&self, json: &'d str) -> serde_json::Result<Vec<Option<&'d str>>> {
        let mut found = vec![None; self.within.len()];
        found[0] = Some(json);
        let mut todo = vec![0];
        while let Some(at) = todo.pop() {
            let (wanted, Some(text)) = (&self.within[at], found[at]) else { continue };
            if wanted.is_empty() {
                continue;
            }
            let mut deserializer = serde_json::Deserializer::from_str(text);
            match text.as_bytes().first() {
                Some(b'{') => deserializer.deserialize_map(Members { wanted, found: &mut found })?,
                Some(b'[') => {
                    let index = |(token, place): (&&[u8], &usize)| Some((array_index(token)?, *place));
                    let wanted = wanted.iter().filter_map(index).collect();
                    deserializer.deserialize_seq(Elements { wanted, found: &mut found })?;
                }
                _ => continue,
            }
            todo.extend(wanted.values());
        }
        Ok(found)
    }
}

/// `0`, or digits without a leading zero. `-` is the element after the last: there is none.
fn array_index(token: &[u8]) -> Option<usize> {
    let digits = !token.is_empty() && token.iter().all(u8::is_ascii_digit);
    if !digits || (token.len() > 1 && token.starts_with(b"0")) {
        return None;
    }
    std::str::from_utf8(token).ok()?.parse().ok()
}

/// Takes the wanted members of an object.
struct Members<'w, 'p, 'f, 'd> {
    wanted: &'w HashMap<&'p [u8], usize>,
    found: &'f mut [Option<&'d str>],
}

impl<'de> Visitor<'de> for Members<'_, '_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(wanted) = map.next_key_seed(Named(self.wanted))? {
            match wanted {
                Some(place) => self.found[place] = Some(map.next_value::<&'de RawValue>()?.get()),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The place of a name, if it is wanted.
struct Named<'w, 'p>(&'w HashMap<&'p [u8], usize>);

impl<'de> DeserializeSeed<'de> for Named<'_, '_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // As bytes: a name with a lone surrogate escape is legal JSON and no `str`; it matches nothing.
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Named<'_, '_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.get(name).copied())
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        self.visit_bytes(name.as_bytes())
    }
}

/// Takes the wanted elements of an array.
struct Elements<'f, 'd> {
    wanted: HashMap<usize, usize>,
    found: &'f mut [Option<&'d str>],
}

impl<'de> Visitor<'de> for Elements<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        for index in 0.. {
            match self.wanted.get(&index) {
                Some(place) => {
                    let Some(value) = array.next_element::<&'de RawValue>()? else { return Ok(()) };
                    self.found[*place] = Some(value.get());
                }
                None if array.next_element::<IgnoredAny>()?.is_none() => return Ok(()),
                None => {}
            }
        }
        Ok(())
    }
}
