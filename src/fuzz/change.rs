//! Inputs made of others: a few changes to one, with parts of a second one and words that mean something.

/// SplitMix64: quick, and the same numbers from the same start.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(start: u64) -> Self {
        Self(start)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`; 0 if that is 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end as u64).max(1)).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

const LONGEST: usize = 8192;
/// Where numbers end, and what text is seldom made of.
const ODD: [&str; 16] = [
    "0",
    "-1",
    "255",
    "256",
    "65536",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e999",
    "\0",
    "\u{7f}",
    "\r\n",
    "é",
    "\u{202e}",
    "\u{feff}",
    "%2f",
];

/// A new input from those that there are.
pub(super) fn change(pool: &[Vec<u8>], words: &[&str], rng: &mut Rng) -> Vec<u8> {
    let mut input = pool[rng.below(pool.len())].clone();
    loop {
        once(&mut input, &pool[rng.below(pool.len())], words, rng);
        if rng.below(5) < 2 {
            input.truncate(LONGEST);
            return input;
        }
    }
}

fn once(input: &mut Vec<u8>, other: &[u8], words: &[&str], rng: &mut Rng) {
    let at = rng.below(input.len() + 1);
    let end = |rng: &mut Rng, from: usize, len: usize| {
        // Mostly little, sometimes all that is left.
        let most = if rng.below(4) == 0 { len - from } else { (len - from).min(8) };
        from + rng.below(most + 1)
    };
    match rng.below(12) {
        0 if at < input.len() => input[at] ^= 1 << rng.below(8),
        1 if at < input.len() => input[at] = rng.byte(),
        2 => {
            let bytes: Vec<u8> = (0..=rng.below(8)).map(|_| rng.byte()).collect();
            input.splice(at..at, bytes);
        }
        3 => drop(input.drain(at..end(rng, at, input.len()))),
        4 => {
            let part = input[at..end(rng, at, input.len())].to_vec();
            let to = rng.below(input.len() + 1);
            input.splice(to..to, part);
        }
        5 => {
            let from = rng.below(other.len() + 1);
            let part = other[from..end(rng, from, other.len())].to_vec();
            let over = if rng.below(2) == 0 { at } else { input.len().min(at + part.len()) };
            drop(input.splice(at..over, part));
        }
        // The whole of a line, in the place of one or before it.
        6 => {
            let lines: Vec<&[u8]> = other.split_inclusive(|byte| *byte == b'\n').collect();
            let Some(line) = lines.get(rng.below(lines.len())) else { return };
            let start = input[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            let over = input[at..].iter().position(|byte| *byte == b'\n').map_or(input.len(), |newline| at + newline);
            let over = if rng.below(2) == 0 { start } else { over.max(start) };
            input.splice(start..over, line.iter().copied());
        }
        7 => {
            let odd = ODD[rng.below(ODD.len())];
            input.splice(at..at, odd.bytes());
        }
        // A number by another one.
        8 => {
            let Some(from) = input[at..].iter().position(u8::is_ascii_digit).map(|digit| at + digit) else { return };
            let digits = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            input.splice(from..from + digits, ODD[rng.below(9)].bytes());
        }
        // The end of another one, from the same place on.
        9 => {
            input.truncate(at);
            input.extend(other.iter().skip(at));
        }
        _ if !words.is_empty() => {
            let word = words[rng.below(words.len())].as_bytes();
            let over = if rng.below(2) == 0 { at } else { input.len().min(at + word.len()) };
            input.splice(at..over, word.iter().copied());
        }
        _ => {}
    }
}
