//! The data that is measured on, made from a seed, and the place where it lies.

pub mod change;
pub mod compare;
pub mod filesystem;
pub mod noise;
pub mod pages;
pub mod place;
pub mod volume;
