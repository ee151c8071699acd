//! x
mod decide;
mod effect;
mod state;
