"""Tools that tests of several rooms share: the command line, composition, an endpoint, a database, finished runs."""
