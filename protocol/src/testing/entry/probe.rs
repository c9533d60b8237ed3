use crate::config::Generations;
use crate::handshake::probe::{Attempt, Outcome, Probe, Then};
use crate::terms::Generation;
use crate::testing::script::Script;

/// Bytes: the set of generations, then the outcomes of attempts.
///
/// # Panics
/// If something is tried that is not allowed, or weaker than what worked; if an attempt that an
/// answer led to leads to another at once; or if everything stronger is given up for good.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let allowed = super::demux::generations(script.u8());
    let mut probe = Probe::new(allowed);
    let mut floor = None;
    let mut last = Then::Later;
    while !script.is_empty() {
        let attempt = probe.attempt();
        for generation in spoken(attempt) {
            assert!(may(allowed, floor, generation), "{attempt:?} after {floor:?}");
        }
        assert!(spoken(attempt).next().is_some());
        let outcome = match script.u32_below(8) {
            0 => {
                let nth = usize::from(script.u8()) % spoken(attempt).count();
                let generation = spoken(attempt).nth(nth).unwrap_or(Generation::Native);
                floor = floor.max(Some(generation));
                Outcome::Up(generation)
            }
            1 => Outcome::AnsweredHttp,
            _ => Outcome::Failed,
        };
        let then = probe.handle_outcome(outcome);
        assert!((then, last) != (Then::Now, Then::Now), "no back-off");
        last = then;
    }
    let strongest = Generation::ALL.into_iter().rev().find(|&it| may(allowed, floor, it));
    let finds = (0..10).any(|_| {
        let found = spoken(probe.attempt()).any(|it| Some(it) == strongest);
        assert_eq!(probe.handle_outcome(Outcome::Failed), Then::BackOff);
        found
    });
    assert!(finds);
}

fn may(allowed: Generations, floor: Option<Generation>, generation: Generation) -> bool {
    let named = generation != Generation::Classic || allowed.names(generation);
    allowed.allows(generation) && named && floor.is_none_or(|floor| generation >= floor)
}

fn spoken(attempt: Attempt) -> impl Iterator<Item = Generation> {
    Generation::ALL.into_iter().filter(move |generation| match (attempt, generation) {
        (Attempt::Tls { native, .. }, Generation::Native) => native,
        (Attempt::Tls { https, .. }, Generation::Https) => https,
        (Attempt::Http, Generation::Http) | (Attempt::Classic, Generation::Classic) => true,
        (Attempt::Tls { .. } | Attempt::Http | Attempt::Classic, _) => false,
    })
}
