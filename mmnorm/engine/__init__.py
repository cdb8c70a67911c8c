"""What plugs into mmengine: config look-up, pre-flight checks, and the set-up of a Runner from the command line."""
