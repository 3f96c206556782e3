"""Writers of the formats that conversations are exported in: pure functions of `ExportedConversation`s."""
