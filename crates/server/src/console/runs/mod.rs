//! Lists of runs, of one experiment or of all: tables that are filtered and sorted
//! by what the runs were asked to do and by what came of them.

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
