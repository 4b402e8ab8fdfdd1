//! Fixed clusters: the JSON shapes of the seeds.
