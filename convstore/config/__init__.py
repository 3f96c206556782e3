"""Find the settings: options, environment, project file, the user's file, defaults.

`settings` decides which of them is in force; the other modules read and write the files.
"""
