-- Announces the users that are due. Returns a list with the time until the next announcement is due.

return with_claimed({announce_due()})
