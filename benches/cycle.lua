-- wrk: each request with the next of the tokens in the file that TOKENS names.
local requests, at = {}, 0

function init()
  for token in io.lines(os.getenv("TOKENS")) do
    local fields = { ["Authorization"] = "Bearer " .. token }
    requests[#requests + 1] = wrk.format("GET", nil, fields)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
