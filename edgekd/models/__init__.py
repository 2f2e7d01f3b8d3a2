"""Students and reference teachers: one module a family, with a function of the same name."""
