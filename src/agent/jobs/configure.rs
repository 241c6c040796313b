//! `configure`: settings by ALTER SYSTEM, and howdah's slots.

use std::collections::BTreeMap;

use super::Steps;
use crate::agent::steps::check::Check;
use crate::agent::steps::settings::{self, Set};
use crate::agent::steps::slots::{self, DropSlots, MakeSlots};
use crate::directive::{Code, Failure};

pub(super) fn steps(
    changes: &BTreeMap<String, Option<String>>,
    make: &[String],
    drop: &[String],
) -> Result<Steps, Failure> {
    changes.keys().try_for_each(|name| settings::check_name(name))?;
    make.iter().chain(drop).try_for_each(|slot| slots::check_name(slot))?;
    if let Some(other) = drop.iter().find(|slot| !slot.starts_with(slots::PREFIX)) {
        let text = format!("slot \"{other}\" is not howdah's, and is not dropped");
        return Err(Failure::new(Code::Malformed, text));
    }
    Ok(vec![
        Box::new(Check::Running),
        Box::new(Set(changes.clone())),
        Box::new(MakeSlots(make.to_vec())),
        Box::new(DropSlots(drop.to_vec())),
    ])
}
