-- Announces the users whose time has come. Returns when the next announcement is due.

return announce_due()
