//! TODO models owner
