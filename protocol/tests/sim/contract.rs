//! The contract of the machines, wherever they are driven.

/// Takes all outputs of a machine, which say themselves that they are due (contract, point 3).
#[macro_export]
macro_rules! drain {
    ($machine:expr, $now:expr) => {{
        let mut outputs = Vec::new();
        loop {
            let due = $machine.poll_timeout();
            let Some(output) = $machine.poll_output() else {
                break outputs;
            };
            assert!(
                due.is_some_and(|due| due <= $now),
                "{output:?} is queued and not due"
            );
            outputs.push(output);
        }
    }};
}

/// Tells a machine the time; often too early, which must not matter (contract, point 5).
#[macro_export]
macro_rules! ring {
    ($machine:expr, $now:expr) => {{
        let due = $machine.poll_timeout();
        $machine.handle_timeout($now);
        if due.is_none_or(|due| due > $now) {
            assert_eq!($machine.poll_timeout(), due, "an early call has an effect");
        }
    }};
}
