use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    cooldown: Duration::from_secs(3),
    stop: Duration::from_secs(9),
};

fn at(millis: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(millis))
}

fn drain(machine: &mut Lifecycle) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

/// A machine after some inputs, each at its millisecond; what it said last.
fn after(inputs: &[(u64, Input)]) -> (Lifecycle, Vec<Output>) {
    let mut machine = Lifecycle::new(LIMITS);
    let mut last = Vec::new();
    for (millis, input) in inputs {
        machine.handle_input(at(*millis), *input);
        last = drain(&mut machine);
    }
    (machine, last)
}

const STOP: Input = Input::Stop(Duration::MAX);
const RUNNING: [(u64, Input); 2] = [(0, Input::Start), (5, Input::Started(1))];

fn running_then(input: Input) -> (Lifecycle, Vec<Output>) {
    after(&[&RUNNING[..], &[(10, input)]].concat())
}

#[test]
fn a_start_that_succeeds_is_shown_once() {
    let (mut machine, last) = after(&[(0, Input::Start)]);
    assert_eq!(last, [Output::Begin(1)]);
    machine.handle_input(at(5), Input::Start);
    assert_eq!(drain(&mut machine), []);
    machine.handle_input(at(6), Input::Started(1));
    assert_eq!(drain(&mut machine), [Output::Show(Status::Running)]);
    machine.handle_input(at(7), Input::Start);
    assert_eq!(drain(&mut machine), []);
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn failed_starts_are_retried_ever_more_slowly() {
    let (mut machine, last) = after(&[(0, Input::Start), (0, Input::Failed(1))]);
    assert_eq!(last, [Output::Show(Status::Error)]);
    let (mut waits, mut now) = (Vec::new(), at(0));
    for number in 2..10 {
        let due = machine.poll_timeout().unwrap();
        waits.push(due.saturating_since(now).as_millis());
        now = due;
        machine.handle_timeout(now);
        assert_eq!(drain(&mut machine), [Output::Begin(number)]);
        machine.handle_input(now, Input::Failed(number));
        assert_eq!(drain(&mut machine), [], "it still shows error");
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3000, 3000, 3000]);
    machine.handle_input(now, Input::Start);
    assert_eq!(drain(&mut machine), [Output::Begin(10)], "no need to wait");
    machine.handle_input(now, Input::Started(10));
    assert_eq!(drain(&mut machine), [Output::Show(Status::Running)]);
}

#[test]
fn a_run_that_fails_is_started_again_and_one_that_is_done_is_not() {
    let (mut machine, last) = running_then(Input::Ended(1, Err(())));
    assert_eq!(last, [Output::Show(Status::Error)]);
    assert_eq!(machine.poll_timeout(), Some(at(110)));
    machine.handle_timeout(at(110));
    assert_eq!(drain(&mut machine), [Output::Begin(2)]);
    let (machine, last) = running_then(Input::Ended(1, Ok(())));
    assert_eq!(last, [Output::Show(Status::Stopped)]);
    assert!(machine.is_stopped());
}

#[test]
fn a_stop_waits_for_the_run_and_cuts_it_off_in_the_end() {
    let (mut machine, last) = running_then(STOP);
    assert_eq!(last, [Output::Finish]);
    machine.handle_input(at(20), Input::Stop(Duration::from_secs(3)));
    assert_eq!(
        machine.poll_timeout(),
        Some(at(3020)),
        "who comes later may be in a hurry"
    );
    machine.handle_input(at(30), STOP);
    assert_eq!(machine.poll_timeout(), Some(at(3020)));
    machine.handle_timeout(at(3019));
    assert_eq!(drain(&mut machine), []);
    machine.handle_timeout(at(3020));
    assert_eq!(
        drain(&mut machine),
        [Output::Cut, Output::Show(Status::Stopped)]
    );
    assert!(machine.is_stopped());
    let (mut machine, _) = running_then(STOP);
    machine.handle_input(at(50), Input::Ended(1, Err(())));
    assert_eq!(
        drain(&mut machine),
        [Output::Show(Status::Stopped)],
        "it was to end"
    );
}

#[test]
fn a_start_during_a_stop_is_carried_out_after_it() {
    let (mut machine, _) = running_then(STOP);
    machine.handle_input(at(11), Input::Start);
    machine.handle_input(at(12), Input::Ended(1, Ok(())));
    assert_eq!(drain(&mut machine), [Output::Show(Status::Stopped)]);
    machine.handle_timeout(at(262));
    assert_eq!(drain(&mut machine), [Output::Begin(2)]);
    let (mut machine, _) = running_then(Input::Restart);
    machine.handle_input(at(11), STOP);
    machine.handle_input(at(12), Input::Ended(1, Ok(())));
    assert!(machine.is_stopped(), "the last word counts");
}

#[test]
fn a_restart_shows_stopped_for_a_while_from_whatever_state() {
    let starting = vec![(0, Input::Start)];
    let waiting = vec![(0, Input::Start), (0, Input::Failed(1))];
    let pausing = vec![(0, Input::Restart)];
    let table = [
        (vec![], vec![], 10),
        (starting, vec![Output::Cut], 10),
        (waiting, vec![Output::Show(Status::Stopped)], 10),
        (pausing, vec![], 0),
    ];
    for (mut inputs, expected, from) in table {
        let number = machine_number(&inputs);
        inputs.push((10, Input::Restart));
        let (mut machine, last) = after(&inputs);
        assert_eq!(last, expected, "{inputs:?}");
        assert_eq!(machine.poll_timeout(), Some(at(from + 250)));
        machine.handle_timeout(at(from + 250));
        assert_eq!(drain(&mut machine), [Output::Begin(number + 1)]);
    }
    let (mut machine, last) = running_then(Input::Restart);
    assert_eq!(last, [Output::Finish]);
    machine.handle_input(at(100), Input::Ended(1, Ok(())));
    assert_eq!(drain(&mut machine), [Output::Show(Status::Stopped)]);
    assert_eq!(machine.poll_timeout(), Some(at(350)));
}

fn machine_number(inputs: &[(u64, Input)]) -> u64 {
    inputs
        .iter()
        .filter(|(_, input)| *input == Input::Start)
        .count() as u64
}

#[test]
fn a_start_that_takes_too_long_is_given_up_and_tried_again() {
    let (mut machine, _) = after(&[(0, Input::Start)]);
    let due = machine.poll_timeout().unwrap();
    machine.handle_timeout(due);
    assert_eq!(
        drain(&mut machine),
        [Output::Cut, Output::Show(Status::Error)]
    );
    machine.handle_input(due, Input::Started(1));
    assert_eq!(drain(&mut machine), [], "too late");
    machine.handle_input(due, STOP);
    assert_eq!(drain(&mut machine), [Output::Show(Status::Stopped)]);
}

#[test]
fn what_an_earlier_run_says_is_nothing_to_this_one() {
    let (mut machine, _) = running_then(Input::Restart);
    machine.handle_input(at(11), Input::Ended(1, Ok(())));
    machine.handle_timeout(at(300));
    drain(&mut machine);
    for late in [
        Input::Ended(1, Err(())),
        Input::Started(1),
        Input::Failed(1),
    ] {
        machine.handle_input(at(301), late);
        assert_eq!(drain(&mut machine), []);
    }
}

/// The one job there may be, as the driver sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Job {
    Starting(u64),
    Running(u64),
    Finishing(u64),
}

/// Carries out what the machine says, and checks it.
#[derive(Debug)]
struct World {
    machine: Lifecycle,
    now: Instant,
    job: Option<Job>,
    shown: Status,
    stopped_since: Instant,
    wanted: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Start,
    Stop(u16),
    Restart,
    /// The job comes to something: well or not.
    Report(bool),
    /// A report of some earlier job.
    Stale(u64),
    /// Time passes, at most to the next deadline.
    Pass(u16),
    /// Time passes to the next deadline.
    Due,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Start),
        any::<u16>().prop_map(Step::Stop),
        Just(Step::Restart),
        any::<bool>().prop_map(Step::Report),
        (0..5_u64).prop_map(Step::Stale),
        any::<u16>().prop_map(Step::Pass),
        Just(Step::Due),
    ]
}

impl World {
    fn new() -> Self {
        Self {
            machine: Lifecycle::new(LIMITS),
            now: at(0),
            job: None,
            shown: Status::Stopped,
            stopped_since: at(0),
            wanted: false,
        }
    }

    fn take(&mut self, step: Step) {
        let input = match step {
            Step::Start => Some(Input::Start),
            Step::Restart => Some(Input::Restart),
            Step::Stop(millis) => Some(Input::Stop(Duration::from_millis(millis.into()))),
            Step::Report(good) => self.report(good),
            Step::Stale(number) => Some(Input::Started(number)).filter(|_| self.job.is_none()),
            Step::Pass(millis) => {
                let then = self.now.after(Duration::from_millis(millis.into()));
                self.now = self
                    .machine
                    .poll_timeout()
                    .map_or(then, |due| due.min(then));
                None
            }
            Step::Due => {
                self.now = self
                    .machine
                    .poll_timeout()
                    .unwrap_or(self.now)
                    .max(self.now);
                None
            }
        };
        match step {
            Step::Start | Step::Restart => self.wanted = true,
            Step::Stop(_) => self.wanted = false,
            Step::Report(_) | Step::Stale(_) | Step::Pass(_) | Step::Due => {}
        }
        match input {
            Some(input) => self.machine.handle_input(self.now, input),
            None => self.machine.handle_timeout(self.now),
        }
        self.obey();
        // Points 3 and 4 of the contract.
        let due = self.machine.poll_timeout();
        self.machine.handle_timeout(self.now);
        self.obey();
        let next = self.machine.poll_timeout();
        assert!(
            next.is_none_or(|next| next > self.now),
            "{due:?} {next:?} {self:?}"
        );
    }

    fn report(&mut self, good: bool) -> Option<Input> {
        let result = if good { Ok(()) } else { Err(()) };
        match self.job.take()? {
            Job::Starting(number) if good => {
                self.job = Some(Job::Running(number));
                Some(Input::Started(number))
            }
            Job::Starting(number) => Some(Input::Failed(number)),
            Job::Running(number) if good => {
                // Nobody asked it to end.
                self.wanted = false;
                Some(Input::Ended(number, result))
            }
            Job::Running(number) | Job::Finishing(number) => Some(Input::Ended(number, result)),
        }
    }

    fn obey(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Begin(number) => {
                    assert_eq!(self.job, None, "two at once");
                    assert!(self.wanted, "nobody asked for it");
                    self.job = Some(Job::Starting(number));
                }
                Output::Finish => match self.job {
                    Some(Job::Running(number)) => self.job = Some(Job::Finishing(number)),
                    other => panic!("{other:?} cannot finish"),
                },
                Output::Cut => assert!(self.job.take().is_some(), "nothing to cut"),
                Output::Show(status) => {
                    assert_ne!(status, self.shown, "told twice");
                    self.shown = status;
                    self.stopped_since = self.now;
                }
            }
        }
        let honest = match self.job {
            Some(Job::Running(_) | Job::Finishing(_)) => self.shown == Status::Running,
            Some(Job::Starting(_)) | None => self.shown != Status::Running,
        };
        assert!(honest, "{self:?}");
    }
}

proptest! {
    #[test]
    fn there_is_one_run_at_most_and_the_status_is_true(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
    }

    #[test]
    fn whatever_happened_a_stop_stops_and_a_start_starts(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.take(Step::Stop(3000));
        let end = world.now.after(Duration::from_secs(3));
        while !world.machine.is_stopped() {
            world.take(Step::Due);
        }
        prop_assert!(world.now <= end);
        prop_assert_eq!((world.job, world.shown), (None, Status::Stopped));
        world.take(Step::Start);
        prop_assert!(matches!(world.job, Some(Job::Starting(_))));
        world.take(Step::Report(true));
        prop_assert_eq!(world.shown, Status::Running);
    }

    #[test]
    fn a_restart_is_seen_and_ends_running(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.take(Step::Restart);
        if matches!(world.job, Some(Job::Finishing(_))) {
            world.take(Step::Report(true));
        }
        prop_assert_eq!((world.job, world.shown), (None, Status::Stopped));
        let shown = world.stopped_since;
        while world.job.is_none() {
            world.take(Step::Due);
        }
        prop_assert!(world.now.saturating_since(shown) >= PAUSE);
        world.take(Step::Report(true));
        prop_assert_eq!(world.shown, Status::Running);
    }
}
