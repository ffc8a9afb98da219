//! Roles, in the order in which one includes the other (contract §2.5).

/// A role on a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing.
    #[default]
    None,
    /// Pull.
    Read,
    /// Push.
    Write,
    /// Everything.
    Admin,
}

/// A role in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceRole {
    /// Nothing, or a member of a team that gives nothing by itself.
    #[default]
    None,
    /// May make repositories.
    Creator,
    /// Admin of every repository.
    Admin,
}

impl Role {
    /// By `role.name`; one that we do not know permits nothing.
    pub fn named(name: &str) -> Self {
        match name {
            "read" => Self::Read,
            "write" => Self::Write,
            "admin" => Self::Admin,
            _ => Self::None,
        }
    }

    /// By its rank in [`role_rank`].
    pub(super) fn ranked(rank: i32) -> Self {
        match rank {
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Admin,
            _ => Self::None,
        }
    }
}

impl NamespaceRole {
    /// By its rank in [`team_role_rank`].
    pub(super) fn ranked(rank: i32) -> Self {
        match rank {
            1 => Self::Creator,
            2 => Self::Admin,
            _ => Self::None,
        }
    }
}

/// Ranks `role.name` in SQL.
macro_rules! role_rank {
    ($name:literal) => {
        concat!(
            "CASE ",
            $name,
            " WHEN 'read' THEN 1 WHEN 'write' THEN 2 WHEN 'admin' THEN 3 ELSE 0 END"
        )
    };
}
pub(super) use role_rank;

/// Ranks `teamrole.name` in SQL.
macro_rules! team_role_rank {
    ($name:literal) => {
        concat!("CASE ", $name, " WHEN 'creator' THEN 1 WHEN 'admin' THEN 2 ELSE 0 END")
    };
}
pub(super) use team_role_rank;
