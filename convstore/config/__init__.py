"""Find the settings: environment, project file, the user's file, defaults.

`settings` decides which of them is in force; the other modules read and write the files.
"""
