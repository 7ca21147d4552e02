//! The roles of a file's columns. They come from the options, the names of the
//! columns, or the first rows, in this order.

mod assigned;
mod count;
mod given;
mod names;
mod place;

use crate::{error::Result, layout::Layout, table::Table};
use assigned::log_roles;
use given::roles_from_options;
use names::{roles_from_known_names, roles_from_unknown_names};
use place::by_place;

pub(crate) use assigned::{Field, Meaning, Roles};
pub(crate) use count::{column_count_text, count_filled_columns};
pub(crate) use names::{changes_examples, looks_like_header, warn_of_header};

impl Roles {
    pub(crate) fn of_table(layout: &Layout, table: &dyn Table) -> Result<Self> {
        let Some(kinds) = layout.kinds else {
            return Ok(Self::new(Meaning::Texts, Vec::new(), 0));
        };
        let (options, names) = (table.options(), table.names());
        let roles = match names {
            Some(names) if !options.columns.is_empty() => {
                Some(roles_from_options(&options.columns, names, kinds, table)?)
            }
            Some(names) if !options.is_labeled => roles_from_known_names(names, kinds, table)?,
            _ => None,
        };
        if let (Some(roles), Some(names)) = (&roles, names) {
            log_roles(roles, names, table);
        }
        match (roles, table.delimiter(), names) {
            (Some(roles), ..) => Ok(roles),
            (None, None, Some(names)) => roles_from_unknown_names(names, kinds, table),
            (None, ..) => by_place(kinds, table),
        }
    }
}
