"""The one kind of error a user is meant to read.

UserError                 the command can't go on, and the message is all the user needs
├── LogError              ingest/log: the log's file, a topic, an offset
├── RecordingError        ingest/recorder.py: a recording that is missing or isn't one
├── StoreError            publish/store.py: where the objects live
└── SettingsError         publish/settings.py: settings or flags that are refused (exit code 2)

The command line catches it once, prints the message and exits with `exit_code`; every other
exception is a defect of perpflow and keeps its traceback.
"""

from typing import ClassVar


class UserError(Exception):
    """What is wrong, where (file, line, setting, URL), and what to do about it."""

    exit_code: ClassVar[int] = 1
