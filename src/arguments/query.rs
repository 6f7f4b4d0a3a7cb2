//! `args=…&kwargs=…`, as forms are encoded: `%XX` is a byte, `+` a space.

use zeroize::Zeroizing;

use super::Fault;

/// The texts of `args` and `kwargs`.
pub(super) fn parts(query: &str) -> Result<[Option<Zeroizing<String>>; 2], Fault> {
    let mut parts = [None, None];
    if query.is_empty() {
        return Ok(parts);
    }
    for field in query.split('&') {
        let (name, text) = field.split_once('=').ok_or(Fault::Query)?;
        let place = match name {
            "args" => &mut parts[0],
            "kwargs" => &mut parts[1],
            _ => return Err(Fault::Query),
        };
        let text = percent_decoded(text, b' ').ok_or(Fault::Query)?;
        if place.replace(text).is_some() {
            return Err(Fault::Query);
        }
    }
    Ok(parts)
}

/// A text in which `%XX` is a byte, and `+` this one. `None` where that is no encoding, or not UTF-8.
pub fn percent_decoded(text: &str, plus: u8) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut encoded = text.bytes();
    while let Some(byte) = encoded.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(encoded.next()?).to_digit(16)?;
                let low = char::from(encoded.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => plus,
            plain => plain,
        });
    }
    String::from_utf8(std::mem::take(&mut *bytes)).ok().map(Zeroizing::new)
}
