//! The relays, the database and the network of the model.

use super::*;

/// What a relay or the database could get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The deadline is counted from the answer.
    CountsFromTheAnswer,
    /// The database's clock alone says that a lease has ended.
    TrustsTheDatabaseClock,
    /// A relay that is paused is taken for dead.
    TakesPausedForDead,
    /// A renewal is accepted with an old epoch.
    RenewsWithoutEpoch,
    /// The source is taken without looking whether it was renewed since.
    TakesWithoutComparing,
}

impl Flaw {
    pub(super) const ALL: [Self; 5] = [
        Self::CountsFromTheAnswer,
        Self::TrustsTheDatabaseClock,
        Self::TakesPausedForDead,
        Self::RenewsWithoutEpoch,
        Self::TakesWithoutComparing,
    ];
}

struct Relay {
    rate: u64,
    host: u8,
    /// Grows with each start.
    life: u32,
    contender: Option<Contender>,
    paused_until: u64,
    pending: Option<Pending>,
}

struct Pending {
    sent: u64,
    asked: Instant,
    gives_up: u64,
    answer: Option<(u64, Reply)>,
}

#[derive(Clone)]
enum Reply {
    Seen(Holder, Life),
    Took(Option<Epoch>),
    Renewed(bool),
}

/// A request on its way to the database.
struct Request {
    sent: u64,
    at: u64,
    who: usize,
    life: u32,
    what: What,
    trip: Trip,
}

#[derive(Clone, Copy)]
enum What {
    Asked(Next),
    Release(Epoch),
}

pub(super) struct World {
    now: u64,
    origin: Instant,
    relays: Vec<Relay>,
    database: Holder,
    /// When the lease ends by the database's clock, in its milliseconds.
    lease_until: i64,
    clock_ahead_ms: i64,
    requests: Vec<Request>,
    trips: Vec<Trip>,
    quiet: bool,
    flaw: Option<Flaw>,
}

impl World {
    pub(super) fn new(schedule: &Schedule, flaw: Option<Flaw>) -> Self {
        let relay = |&(rate, host): &(u64, u8)| Relay {
            rate,
            host,
            life: 0,
            contender: None,
            paused_until: 0,
            pending: None,
        };
        let database = Holder {
            epoch: Epoch(0),
            renewals: 0,
            owner: String::new(),
            process: String::new(),
            lease: Duration::ZERO,
            until: None,
            left: Duration::ZERO,
        };
        let mut world = Self {
            now: 0,
            origin: Instant::now(),
            relays: schedule.relays.iter().map(relay).collect(),
            database,
            lease_until: 0,
            clock_ahead_ms: 0,
            requests: Vec::new(),
            trips: schedule.trips.clone(),
            quiet: false,
            flaw,
        };
        for who in 0..world.relays.len() {
            world.start(who);
        }
        world
    }

    /// What the relay's own clock shows now.
    fn local(&self, who: usize) -> Instant {
        self.origin + Duration::from_micros(self.now * self.relays[who].rate / 1_000)
    }

    /// When the relay's own clock will show that.
    fn true_time(&self, who: usize, local: Instant) -> u64 {
        let us = local.duration_since(self.origin).as_micros();
        (u64::try_from(us).unwrap() * 1_000).div_ceil(self.relays[who].rate)
    }

    fn start(&mut self, who: usize) {
        let now = self.local(who);
        let relay = &mut self.relays[who];
        if relay.contender.is_none() {
            relay.life += 1;
            let process = format!("{who} {}", relay.life);
            relay.contender = Some(Contender::new(Terms::new(LEASE), process, now));
        }
    }

    pub(super) fn apply(&mut self, fault: &Fault) {
        let relays = self.relays.len();
        match *fault {
            Fault::Pause { who, us } => self.relays[who % relays].paused_until = self.now + us,
            Fault::Kill { who } => self.end(who % relays),
            Fault::Start { who } => self.start(who % relays),
            Fault::ClockJump { ms } => self.clock_ahead_ms = ms,
            Fault::Stop { who } => {
                let who = who % relays;
                let paused = self.relays[who].paused_until > self.now;
                let epoch = self.relays[who].contender.as_ref().and_then(Contender::epoch);
                if let (Some(epoch), false) = (epoch, paused) {
                    let trip = self.trip();
                    self.send(who, What::Release(epoch), trip);
                    self.end(who);
                }
            }
        }
    }

    fn end(&mut self, who: usize) {
        self.relays[who].contender = None;
        self.relays[who].pending = None;
    }

    /// From now on nothing goes wrong any more.
    pub(super) fn be_quiet(&mut self) {
        self.quiet = true;
        self.clock_ahead_ms = 0;
    }

    pub(super) fn living(&self) -> usize {
        self.relays.iter().filter(|relay| relay.contender.is_some()).count()
    }

    pub(super) fn publishing(&self) -> usize {
        (0..self.relays.len()).filter(|who| self.publishes_until(*who) > self.now).count()
    }

    fn publishes_until(&self, who: usize) -> u64 {
        let until = self.relays[who].contender.as_ref().and_then(Contender::publish_until);
        until.map_or(0, |until| self.true_time(who, until))
    }

    fn trip(&mut self) -> Trip {
        if self.quiet {
            return Trip { there_us: 500, back_us: 500, request_lost: false, answer_lost: false };
        }
        self.trips.rotate_left(1);
        self.trips[0]
    }

    fn send(&mut self, who: usize, what: What, trip: Trip) {
        if !trip.request_lost {
            let life = self.relays[who].life;
            self.requests.push(Request {
                sent: self.now,
                at: self.now + trip.there_us,
                who,
                life,
                what,
                trip,
            });
        }
    }

    pub(super) fn run_until(&mut self, end: u64) -> Result<(), TestCaseError> {
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.arrive();
            for who in 0..self.relays.len() {
                self.act(who)?;
            }
        }
        self.now = end;
        Ok(())
    }

    fn next_event(&self) -> Option<u64> {
        let arrivals = self.requests.iter().map(|request| request.at);
        let relays = (0..self.relays.len()).filter_map(|who| {
            let relay = &self.relays[who];
            let contender = relay.contender.as_ref()?;
            let wakes = match (&relay.pending, contender.next(self.local(who))) {
                (Some(pending), _) => {
                    pending.answer.as_ref().map_or(pending.gives_up, |answer| answer.0.min(pending.gives_up))
                }
                (None, Next::Wait(until)) => self.true_time(who, until),
                (None, _) => self.now,
            };
            Some(wakes.max(relay.paused_until))
        });
        arrivals.chain(relays).min()
    }

    /// What is due at the database now.
    fn arrive(&mut self) {
        while let Some(at) = self.requests.iter().position(|request| request.at <= self.now) {
            let Request { sent, who, life, what, trip, .. } = self.requests.swap_remove(at);
            let process = format!("{who} {life}");
            let reply = match what {
                What::Asked(Next::Look) => {
                    let seen = self.look();
                    let life = self.life_of(&seen.process, self.relays[who].host);
                    Reply::Seen(seen, life)
                }
                What::Asked(Next::Take(how)) => Reply::Took(self.take(how, &process)),
                What::Asked(Next::Renew(epoch)) => Reply::Renewed(self.renew(epoch, &process)),
                What::Asked(Next::Wait(_) | Next::Over) => unreachable!("no request"),
                What::Release(epoch) => {
                    if self.database.epoch == epoch && self.database.process == process {
                        self.database.until = None;
                    }
                    continue;
                }
            };
            let relay = &mut self.relays[who];
            let waits = relay.life == life && !trip.answer_lost;
            if let Some(pending) = relay.pending.as_mut().filter(|pending| waits && pending.sent == sent) {
                pending.answer = Some((self.now + trip.back_us, reply));
            }
        }
    }

    /// Whether the relay that calls itself so has ended, as far as can be seen from `host`.
    fn life_of(&self, process: &str, host: u8) -> Life {
        let Some((who, life)) = process.split_once(' ') else { return Life::Unknown };
        let (who, life): (usize, u32) = (who.parse().unwrap(), life.parse().unwrap());
        let relay = &self.relays[who];
        let ended = relay.life != life || relay.contender.is_none();
        let paused = relay.paused_until > self.now && self.flaw == Some(Flaw::TakesPausedForDead);
        if relay.host == host && (ended || paused) { Life::Gone } else { Life::Unknown }
    }

    fn database_clock(&self) -> i64 {
        i64::try_from(self.now / 1_000).unwrap() + self.clock_ahead_ms
    }

    fn look(&self) -> Holder {
        let left = u64::try_from(self.lease_until - self.database_clock()).unwrap_or(0);
        let left = if self.database.until.is_some() { left } else { 0 };
        let mut seen = Holder { left: Duration::from_millis(left), ..self.database.clone() };
        if self.flaw == Some(Flaw::TrustsTheDatabaseClock) {
            seen.lease = Duration::ZERO;
        }
        seen
    }

    fn take(&mut self, how: Take, process: &str) -> Option<Epoch> {
        let same = (self.database.epoch, self.database.renewals) == (how.over, how.renewals)
            || self.flaw == Some(Flaw::TakesWithoutComparing);
        let expired = self.lease_until < self.database_clock();
        let free = how.early || self.database.until.is_none() || expired || self.database.process == process;
        (same && free).then(|| {
            self.database.epoch = Epoch(self.database.epoch.0 + 1);
            self.database.renewals = 0;
            self.database.process = process.to_owned();
            self.grant();
            self.database.epoch
        })
    }

    fn renew(&mut self, epoch: Epoch, process: &str) -> bool {
        let own = self.database.epoch == epoch && self.database.process == process;
        if own {
            self.database.renewals += 1;
            self.grant();
        }
        own || self.flaw == Some(Flaw::RenewsWithoutEpoch)
    }

    fn grant(&mut self) {
        self.database.lease = LEASE;
        self.lease_until = self.database_clock() + i64::try_from(LEASE.as_millis()).unwrap();
        self.database.until = Some("then".to_owned());
    }

    /// One relay takes the answer that has come, or gives it up, and asks what it wants to.
    fn act(&mut self, who: usize) -> Result<(), TestCaseError> {
        if self.relays[who].paused_until > self.now {
            return Ok(());
        }
        let now = self.local(who);
        let (from_answer, true_now) = (self.flaw == Some(Flaw::CountsFromTheAnswer), self.now);
        let relay = &mut self.relays[who];
        let Some(contender) = relay.contender.as_mut() else { return Ok(()) };
        if let Some(Pending { asked, gives_up, answer, .. }) = &relay.pending {
            let asked = if from_answer { now } else { *asked };
            match answer {
                Some((at, reply)) if *at <= true_now => match reply {
                    Reply::Seen(holder, life) => contender.looked(holder, *life, now),
                    Reply::Took(epoch) => contender.took(*epoch, asked),
                    Reply::Renewed(true) => contender.renewed(asked),
                    Reply::Renewed(false) => contender.refused(),
                },
                _ if *gives_up <= true_now => contender.unanswered(now),
                _ => return Ok(()),
            }
            relay.pending = None;
            self.only_one(who)?;
        }
        let what = self.relays[who].contender.as_ref().map_or(Next::Over, |contender| contender.next(now));
        match what {
            Next::Wait(_) => {}
            // As the relay does: a new contender, that waits for its turn.
            Next::Over => {
                let process = format!("{who} {}", self.relays[who].life);
                self.relays[who].contender = Some(Contender::new(Terms::new(LEASE), process, now));
            }
            what => {
                let trip = self.trip();
                let gives_up = self.true_time(who, now + Terms::new(LEASE).answer_within());
                self.relays[who].pending =
                    Some(Pending { sent: self.now, asked: now, gives_up, answer: None });
                self.send(who, What::Asked(what), trip);
            }
        }
        Ok(())
    }

    /// Rule: while `who` may publish, nobody else may.
    fn only_one(&self, who: usize) -> Result<(), TestCaseError> {
        if self.publishes_until(who) <= self.now {
            return Ok(());
        }
        for other in (0..self.relays.len()).filter(|other| *other != who) {
            let until = self.publishes_until(other);
            prop_assert!(
                until <= self.now,
                "at {} relay {} may publish, and relay {} until {}",
                self.now,
                who,
                other,
                until
            );
        }
        Ok(())
    }
}
