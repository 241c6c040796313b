//! What a statement that is about to be sent may leave behind on its server, and whether it may be sent there at all.
//!
//! Most leave nothing, and cost a count. Not here: what is done about it afterwards (`settle.rs`).

use super::{Loan, Session};
use crate::catalog::hidden::Hidden;
use crate::config::Pins;
use crate::proxy::error::ClientError;
use crate::proxy::server::Server;
use crate::sql::effects::{Effects, mentions};

/// Functions that the fast path is used for by libpq, all of them about large objects: `lo_open` and its kin, `loread`,
/// `lowrite` (`pg_proc.dat`).
const HARMLESS_FUNCTIONS: [u32; 13] = [715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004];
/// The same with 64-bit offsets, and `lo_from_bytea`, `lo_put`.
const HARMLESS_FUNCTIONS_64: std::ops::RangeInclusive<u32> = 3170..=3172;

/// Settings whose names the text does not show, when it is not the text that sets them.
const SETTINGS: Effects = Effects::SETS.or(Effects::RESETS).or(Effects::HIDES);

impl Session {
    /// Notes that a text with these `effects` is about to be sent. `hints` is where else names of settings may stand.
    ///
    /// # Errors
    /// Why it must not be sent: [`ClientError::PinsForbidden`], [`ClientError::SequenceElsewhere`],
    /// [`ClientError::SilentOnReplica`].
    pub(super) fn notice(
        &mut self,
        effects: Effects,
        sql: &[u8],
        hints: &[u8],
        loan: &mut Loan,
        server: &mut Server,
    ) -> Result<(), ClientError> {
        if self.is_session_mode() {
            // the server is the client's own, its login included; what may be read on a standby is everybody's, and so is what
            // functions, triggers and the like do from now on
            loan.trail.note(effects.and(Effects::OUTDATES), b"", b"");
            if effects.any(Effects::DEFINES | Effects::REFERS) {
                self.hidden_effects(effects, sql, loan, server);
            }
            return Ok(());
        }
        loan.trail.step();
        let hidden = self.hidden_effects(effects, sql, loan, server);
        if let Some(error) = loan.visit.as_ref().and_then(|visit| self.is_silent_here(sql, hidden, visit)) {
            return Err(error);
        }
        let effects = effects | hidden;
        if effects.is_empty() {
            return Ok(());
        }
        self.notice_effects(effects, sql, hints, loan, server)
    }

    /// What the text does by the functions, tables and types it names, as far as the database's catalogue tells.
    fn hidden_effects(&self, shown: Effects, sql: &[u8], loan: &mut Loan, server: &mut Server) -> Effects {
        let view = loan.pool.hidden();
        let hidden = view.read();
        let defines = shown.any(Effects::DEFINES | Effects::REFERS);
        let mut found = Effects::NONE;
        match &**hidden {
            Hidden::Known(names) if names.is_empty() && !defines && !loan.trail.redefines() => return Effects::NONE,
            Hidden::Known(names) => {
                found = names.everywhere();
                if !names.is_empty() {
                    mentions(sql, &mut |name| {
                        found |= names.effects(name);
                        false
                    });
                }
                if found.any(SETTINGS) {
                    loan.trail.suspect(names.settings());
                }
            }
            // until it is known, whatever can be asked for is asked for; what never will be known is swept instead
            Hidden::Unknown if view.is_hopeless() => server.dirty = Some(self.handle.id),
            Hidden::Unknown => found = Effects::HIDES,
        }
        if shown.any(Effects::DEFINES) || defines && !(found | shown).and(Effects::HIDDEN).is_empty() {
            loan.trail.redefine();
        }
        if loan.trail.redefines() || found.any(SETTINGS) {
            found |= Effects::HIDES;
        }
        found.without(SETTINGS.without(Effects::HIDES))
    }

    fn notice_effects(
        &mut self,
        mut effects: Effects,
        sql: &[u8],
        hints: &[u8],
        loan: &mut Loan,
        server: &mut Server,
    ) -> Result<(), ClientError> {
        let here = (Some(self.handle.id), Some(server.identity.pid));
        if effects.any(Effects::READS_SEQUENCE) {
            loan.pool.sequence_is_read();
            let own = (server.sequence_of, self.sequence_on) == here;
            let others = server.sequence_of.is_some() || self.sequence_on.is_some();
            if !own && others && !effects.any(Effects::MOVES_SEQUENCE) {
                return Err(ClientError::SequenceElsewhere);
            }
        }
        if effects.any(Effects::MOVES_SEQUENCE) {
            (server.sequence_of, self.sequence_on) = here;
            if loan.pool.reads_sequences() {
                loan.set_pins(loan.pins() | Effects::MOVES_SEQUENCE);
            }
        }
        if effects.any(Effects::CREATES) && self.creates_temporary() {
            effects |= Effects::TEMPORARY;
        }
        let pinning = effects.and(Effects::PINNING.without(Effects::MOVES_SEQUENCE));
        if !pinning.is_empty() && self.member.profile.pins == Pins::Forbid {
            let reason = Effects::PINS.iter().find(|(pin, _)| pinning.any(*pin)).map_or("", |(_, reason)| reason);
            return Err(ClientError::PinsForbidden(reason));
        }
        loan.trail.note(effects, sql, hints);
        Ok(())
    }

    /// Whether what is created without a schema becomes temporary.
    fn creates_temporary(&self) -> bool {
        let path = self.wants.value(b"search_path");
        path.is_some_and(|path| memchr::memmem::find(path, b"pg_temp").is_some())
    }
}

/// What a call on the fast path may leave behind. The function is known by its number only.
pub(super) fn effects_of_call(body: &[u8]) -> Effects {
    let function = body.first_chunk().map(|oid| u32::from_be_bytes(*oid));
    let harmless =
        function.is_some_and(|oid| HARMLESS_FUNCTIONS.contains(&oid) || HARMLESS_FUNCTIONS_64.contains(&oid));
    if harmless { Effects::NONE } else { Effects::HIDES }
}
