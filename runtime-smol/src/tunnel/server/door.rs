//! What comes of the connections at a server's door.

use std::mem;
use std::sync::Arc;

use protocol::dialect::Dialect;
use protocol::endpoint::{Input, Refusal};
use protocol::handshake::VerifiedHello;
use protocol::handshake::legacy::VerifiedLegacy;
use protocol::id::ConnId;
use protocol::terms::Flow;
use protocol::time::Instant;
use protocol::wire::launch::Status;
use smol::future::FutureExt as _;

use super::super::door::{Caller, send_refusal};
use super::super::hub::DoorEvent;
use super::super::idle;
use super::super::leash::{Leash, leash};
use super::Server;
use crate::net::Stream;
use crate::timer::Timer;

/// How far a connection at the door is. Dropping it closes the connection.
#[derive(Debug)]
pub(super) enum HalfOpen {
    Handshake {
        _leash: Leash,
    },
    Hello {
        stream: Stream,
        hello: Box<VerifiedHello>,
    },
    WrongProof {
        stream: Stream,
        line: Vec<u8>,
    },
    Preface {
        stream: Stream,
    },
    Legacy {
        stream: Stream,
        verified: Box<VerifiedLegacy>,
        dialect: Box<Dialect>,
    },
    Silent(Caller),
}

impl Server {
    pub(super) fn on_door(&mut self, now: Instant, conn: ConnId, event: DoorEvent) {
        let (state, input) = match event {
            DoorEvent::Hello {
                stream,
                hello,
                data_secret,
            } => {
                let instance = hello.instance;
                let input = Input::Hello {
                    conn,
                    instance,
                    data_secret,
                };
                (HalfOpen::Hello { stream, hello }, input)
            }
            DoorEvent::WrongProof { stream, line } => {
                self.shared.stats.auth_failures.add(1);
                (
                    HalfOpen::WrongProof { stream, line },
                    Input::WrongProof(conn),
                )
            }
            DoorEvent::Preface {
                stream,
                preface,
                exporter,
            } => (
                HalfOpen::Preface { stream },
                Input::Preface {
                    conn,
                    preface,
                    exporter,
                },
            ),
            DoorEvent::Legacy { stream, verified } => {
                let Ok(dialect) = verified.dialect(&self.params()) else {
                    return self.gone(now, conn);
                };
                let control = dialect.capabilities.control;
                let state = HalfOpen::Legacy {
                    stream,
                    verified,
                    dialect: Box::new(dialect),
                };
                (state, Input::Addressed { conn, control })
            }
            DoorEvent::Silent(caller) => {
                let tls = caller.leaf.is_some();
                (HalfOpen::Silent(caller), Input::Silent { conn, tls })
            }
            DoorEvent::Ended => return self.gone(now, conn),
        };
        // One that was closed meanwhile is gone from the table: its late words are ignored.
        if let Some(known) = self.half_open.get_mut(&conn) {
            **known = state;
            self.endpoint.handle_input(now, input);
        }
    }

    fn gone(&mut self, now: Instant, conn: ConnId) {
        self.half_open.remove(&conn);
        self.endpoint.handle_input(now, Input::Ended(conn));
    }

    /// Closes a connection at the door, without a word. But behind the preface of one too many a
    /// launch may be on its way already, so an egress withdraws it.
    pub(super) fn close(&mut self, conn: ConnId, why: Refusal) {
        let closed = self.half_open.remove(&conn).map(|it| *it);
        if let (Some(HalfOpen::Preface { mut stream }), Refusal::TooManyIdle, Flow::Forward) =
            (closed, why, self.flow)
        {
            self.shared.spawn_relay(async move {
                idle::last_byte(&mut stream, Status::Withdrawn).await;
            });
        }
    }

    /// One that was silent goes on being so: there is no room for it, and it may be no data connection.
    pub(super) fn wait(&mut self, conn: ConnId) {
        let (leash, orders) = leash();
        let Some(known) = self.half_open.get_mut(&conn) else {
            return;
        };
        let waits = HalfOpen::Handshake { _leash: leash };
        if let HalfOpen::Silent(caller) = mem::replace(&mut **known, waits) {
            let expected = self.endpoint.expected(caller.from.ip());
            let caller = Caller {
                again: true,
                ..caller
            };
            let met = Arc::clone(&self.door).meet(conn, caller, expected, orders);
            self.shared.spawn_relay(met);
        }
    }

    pub(super) fn refuse(&mut self, conn: ConnId) {
        let known = self.half_open.remove(&conn).map(|it| *it);
        let Some(HalfOpen::WrongProof { mut stream, line }) = known else {
            return;
        };
        let timeout = self.shared.config.env.handshake_timeout;
        self.shared.spawn_relay(async move {
            let too_late = async {
                Timer::after(timeout).await;
                Ok(())
            };
            // A peer that does not take its refusal is closed all the same.
            drop(send_refusal(&mut stream, &line).or(too_late).await);
        });
    }
}
