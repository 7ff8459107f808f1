-- Announces the users that are due. Returns when the next announcement is due.

return announce_due()
