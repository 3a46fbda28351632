"""A suspect as an owner meets it: a module, a function, a file of answers, or an endpoint."""
