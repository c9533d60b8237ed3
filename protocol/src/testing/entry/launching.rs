use alloc::vec::Vec;

use crate::launching::{Launching, Outcome};
use crate::limits::LAUNCH_KEPT;
use crate::terms::Transport;
use crate::time::Instant;
use crate::wire::launch::Launch;

/// A script of pairs, what happens and how much: the peer is sent the launch and then the user's
/// bytes, each once and in order, however often the launch is repeated.
pub fn run(data: &[u8]) {
    let launch = Launch::new(Transport::Tcp, ([192, 0, 2, 1], 5000).into());
    let mut head = Vec::new();
    launch.encode(&mut head);

    let mut it = Launching::new(Instant::default(), &launch, Vec::new(), false);
    let (mut user, mut written) = (Vec::new(), Vec::new());
    for (step, pair) in data.chunks_exact(2).enumerate() {
        let &[what, amount] = pair else { return };
        match what % 8 {
            0..4 => {
                let byte = u8::try_from(step % 251).unwrap_or(0);
                let read = it.wants_user().min(usize::from(amount) * 16);
                let bytes = alloc::vec![byte; read];
                assert!(it.handle_user(&bytes) || it.user_ended());
                user.extend(bytes);
            }
            4 | 5 => {
                let n = it.to_send().len().min(usize::from(amount) * 16);
                written.extend_from_slice(it.to_send().get(..n).unwrap_or_default());
                it.sent(n);
            }
            6 if amount < 16 => it.handle_user_eof(),
            6 => {}
            _ => match it.handle_peer(amount) {
                Outcome::Withdrawn { kept, eof } => {
                    assert_eq!(kept, user);
                    assert_eq!(eof, it.user_ended());
                    written.clear();
                    it = Launching::new(Instant::default(), &launch, kept, eof);
                }
                Outcome::Connected => break,
                Outcome::Failed(_) | Outcome::Lost | Outcome::TimedOut => return,
            },
        }
        assert!(user.len() <= LAUNCH_KEPT);
    }
    written.extend_from_slice(it.to_send());
    assert!(written.iter().eq(head.iter().chain(&user)));
}
