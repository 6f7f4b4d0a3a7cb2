//! How the one thread is divided: each user so many turns in a round, so that none who asks at full speed holds up another.
//! Those that no client names have them together, user by user: who has many uids is no more than one user to those that
//! are named.
//!
//! A turn is a read with bytes in it, or a request; a new connection costs some more. Between two rounds the event loop
//! looks for who else is ready, and whether somebody is at the door. A user that uses up its turns waits for the next round
//! and for nothing else: where nobody else is, that comes at once, and each round is longer than the one before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::pace::InTurn;

/// Turns of one user in a round.
const TURNS: u32 = 2;
/// The same for who has been alone for long: so many go by before somebody who comes is seen.
const ALONE: u32 = 64;
/// What it costs to begin and end a connection, in turns.
const CONNECTION: u32 = 3;

/// The users that are connected.
pub(super) struct Turns {
    lanes: RefCell<HashMap<Whose, Rc<Lane>>>,
    /// Turns of each in this round.
    round: Cell<u32>,
    /// Somebody waits for the next round.
    wanted: Notify,
}

/// A user that a client names, or all that none does.
type Whose = Option<u32>;

/// The turns of one user, or of those that share theirs.
struct Lane {
    left: Cell<u32>,
    waiting: RefCell<InTurn<Weak<Place>>>,
    seats: Cell<usize>,
}

/// One connection's place among those of its user.
struct Place {
    waiting: Cell<bool>,
    /// It has a turn that it has not used yet.
    granted: Cell<bool>,
    waker: RefCell<Waker>,
}

pub(super) struct Seat {
    uid: u32,
    whose: Whose,
    lane: Rc<Lane>,
    place: Rc<Place>,
    among: Rc<Turns>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { lanes: RefCell::default(), round: Cell::new(TURNS), wanted: Notify::new() }
    }
}

impl Turns {
    /// For a new connection of this user, which a client names or none does.
    pub(super) fn seat(self: &Rc<Self>, uid: u32, is_named: bool) -> Seat {
        let whose = is_named.then_some(uid);
        let new = || Rc::new(Lane { left: Cell::new(TURNS), waiting: RefCell::default(), seats: Cell::new(0) });
        let lane = self.lanes.borrow_mut().entry(whose).or_insert_with(new).clone();
        lane.seats.set(lane.seats.get() + 1);
        let waker = RefCell::new(Waker::noop().clone());
        let place = Rc::new(Place { waiting: Cell::new(false), granted: Cell::new(false), waker });
        Seat { uid, whose, lane, place, among: self.clone() }
    }

    /// Begins a round whenever one is wanted and the event loop has looked around.
    pub(super) async fn go_round(&self) {
        loop {
            self.wanted.notified().await;
            tokio::task::yield_now().await;
            self.begin_round();
        }
    }

    fn begin_round(&self) {
        let lanes = self.lanes.borrow();
        // Who comes again and again would find the longest of rounds each time if they did not begin with the shortest.
        self.round.set(if lanes.len() == 1 { (self.round.get() + 1).min(ALONE) } else { TURNS });
        for lane in lanes.values() {
            lane.begin_round(self.round.get());
            if lane.waiting.borrow().len() > 0 {
                self.wanted.notify_one();
            }
        }
    }
}

impl Lane {
    fn begin_round(&self, turns: u32) {
        self.left.set(turns);
        while self.left.get() > 0
            && let Some(next) = self.waiting.borrow_mut().pop()
        {
            // Those that have gone take no turn.
            let Some(place) = next.upgrade() else { continue };
            self.left.set(self.left.get() - 1);
            place.waiting.set(false);
            place.granted.set(true);
            place.waker.borrow().wake_by_ref();
        }
    }
}

impl Seat {
    /// Whether its turn has come; else it is woken when it has.
    pub(super) fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        let free = self.lane.left.get() > 0 && self.lane.waiting.borrow().len() == 0;
        if self.place.granted.get() || free {
            return Poll::Ready(());
        }
        self.place.waker.borrow_mut().clone_from(cx.waker());
        if !self.place.waiting.replace(true) {
            self.lane.waiting.borrow_mut().push(self.uid, Rc::downgrade(&self.place));
            self.among.wanted.notify_one();
        }
        Poll::Pending
    }

    /// The turn is used.
    pub(super) fn use_turn(&self) {
        if !self.place.granted.replace(false) {
            self.lane.left.set(self.lane.left.get().saturating_sub(1));
        }
    }

    /// Waits for as many turns as a new connection costs.
    pub(super) async fn begin(&self) {
        for _ in 0..CONNECTION {
            self.turn().await;
        }
    }

    /// Waits for a turn and uses it.
    pub(super) async fn turn(&self) {
        poll_fn(|cx| self.poll_turn(cx)).await;
        self.use_turn();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lane.seats.set(self.lane.seats.get() - 1);
        if self.lane.seats.get() == 0 {
            self.among.lanes.borrow_mut().remove(&self.whose);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ready(seat: &Seat) -> bool {
        let ready = seat.poll_turn(&mut Context::from_waker(Waker::noop())).is_ready();
        if ready {
            seat.use_turn();
        }
        ready
    }

    #[test]
    fn who_has_had_its_turns_waits_for_the_round_and_others_do_not() {
        let turns = Rc::new(Turns::default());
        let (greedy, other) = (turns.seat(1, true), turns.seat(2, true));
        assert_eq!((0..1000).filter(|_| is_ready(&greedy)).count(), TURNS as usize);
        assert!(is_ready(&other));
        turns.begin_round();
        assert_eq!((0..1000).filter(|_| is_ready(&greedy)).count(), TURNS as usize);
    }

    #[test]
    fn who_is_alone_has_longer_and_longer_rounds_until_somebody_comes() {
        let turns = Rc::new(Turns::default());
        let greedy = turns.seat(1, true);
        let in_a_round = || {
            turns.begin_round();
            (0..1000).filter(|_| is_ready(&greedy)).count()
        };
        let (short, long) = (TURNS as usize, ALONE as usize);
        let rounds: Vec<usize> = (0..long).map(|_| in_a_round()).collect();
        assert_eq!(rounds, (short + 1..=long).chain([long; TURNS as usize]).collect::<Vec<_>>());
        let other = turns.seat(2, true);
        assert_eq!(in_a_round(), short);
        drop(other);
        assert_eq!(in_a_round(), short + 1);
    }

    #[test]
    fn connections_of_one_user_take_turns_in_their_order() {
        let turns = Rc::new(Turns::default());
        let _other = turns.seat(2, true);
        let seats: Vec<Seat> = (0..3 * TURNS).map(|_| turns.seat(1, true)).collect();
        let round = || (0..seats.len()).filter(|n| is_ready(&seats[*n])).collect::<Vec<_>>();
        let some = TURNS as usize;
        assert_eq!(round(), (0..some).collect::<Vec<_>>());
        turns.begin_round();
        assert_eq!(round(), (some..2 * some).collect::<Vec<_>>());
        turns.begin_round();
        assert_eq!(round(), (2 * some..3 * some).collect::<Vec<_>>());
    }

    #[test]
    fn many_users_that_no_client_names_have_the_turns_of_one_and_share_them() {
        let turns = Rc::new(Turns::default());
        let named = turns.seat(1, true);
        // Many connections of one before a single one of another.
        let unnamed: Vec<Seat> = (0..100).map(|n| turns.seat(1000 + n / 50, false)).collect();
        let round = || (0..unnamed.len()).filter(|n| is_ready(&unnamed[*n])).collect::<Vec<_>>();
        assert_eq!(round(), [0, 1]);
        for (one, other) in [(2, 50), (3, 51), (4, 52)] {
            turns.begin_round();
            assert_eq!(round(), [one, other]);
            assert_eq!((0..1000).filter(|_| is_ready(&named)).count(), TURNS as usize);
        }
    }

    #[test]
    fn nothing_stays_of_who_has_gone() {
        let turns = Rc::new(Turns::default());
        let other = turns.seat(2, true);
        let seats: Vec<Seat> = (0..2 * TURNS).map(|_| turns.seat(1, true)).collect();
        let ready = seats.iter().filter(|seat| is_ready(seat)).count();
        assert_eq!(ready, TURNS as usize);
        let last = turns.seat(1, true);
        assert!(!is_ready(&last));
        drop(seats);
        turns.begin_round();
        assert!(is_ready(&last), "those before it have gone");
        drop((last, other));
        assert!(turns.lanes.borrow().is_empty());
    }
}
