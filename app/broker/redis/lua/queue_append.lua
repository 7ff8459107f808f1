-- Appends entries. ARGV: the limits of entries and of bytes; the payloads. Returns how many entries were dropped.

local payloads = {}
for i = 3, #ARGV do
  payloads[i - 2] = ARGV[i]
end
return append(payloads, tonumber(ARGV[1]), tonumber(ARGV[2]))
