//! What commands come to, one file per family; and what holds for any log at all, in `random`.

mod admission;
mod audit;
mod birth;
mod collection;
mod editing;
mod encodings;
mod jobs;
mod layout;
mod lifecycle;
mod media;
mod random;
mod rebirth;
mod registration;
mod sessions;
mod tokens;
mod uploads;
