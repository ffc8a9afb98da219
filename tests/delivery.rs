//! Onto a machine and off it again: the steps, the refusals, the real podman on a stand-in image, and
//! every command of the pages in `docker/`.

mod containers;
mod pages;
mod refusals;
mod site;
mod standin;
mod steps;
mod systemd;
mod upgrade;
