//! The disk as a whole: crashes at every point, and bits that flip.
//!
//! `bits` flips each bit of a small folder, one at a time. `crash` runs a workload on a watched folder (`workload`), takes its journal
//! apart into every state that a crash may leave (`disk`), and opens each as a
//! server does (`start`).

mod bits;
mod crash;
mod disk;
mod start;
mod workload;
