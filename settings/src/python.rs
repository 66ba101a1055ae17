//! The Python side of the table.
