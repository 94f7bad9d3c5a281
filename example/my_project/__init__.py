"""Classes and functions of this project, named by the YAML files in conf/ and on the command line."""
