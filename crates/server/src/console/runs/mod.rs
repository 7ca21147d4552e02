//! Lists of runs, of one experiment or of all. They are filtered and sorted by
//! settings and results of the runs.

mod column_form;
mod columns;
mod file;
mod find;
mod form;
mod listed;
mod page;
mod search;
mod selected;
mod table;

pub(crate) use file::download as csv;
pub(crate) use page::{all, page};
pub(crate) use selected::act;
